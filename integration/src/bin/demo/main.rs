//! `cargo xtask demo`: shows what Futago does, with real packets, and says whether it did what it should.

mod pair;
mod scene;
mod screen;
mod setting;
mod summary;

use std::process::ExitCode;

use clap::Parser;

use scene::{Outcome, Scene};
use screen::Screen;
use setting::Setting;

/// A client, a load balancer that runs Futago, and three web servers, as network namespaces of this machine.
///
/// In each mode: 10,000 HTTP requests through the virtual IP, then one server is killed under load and started again. At the end
/// two nodes, of which the active one is killed under load and comes back.
/// Nothing outside the namespaces is touched, and they are removed at the end, also after Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo --", version)]
struct Args {
    /// Show only this mode, and one node; may be given several times
    #[arg(long, value_enum)]
    mode: Vec<Setting>,
    /// Show only the two nodes
    #[arg(long, conflicts_with_all = ["mode", "ipv6", "keep"])]
    pair: bool,
    /// Use IPv6
    #[arg(long)]
    ipv6: bool,
    /// How many requests
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    requests: u64,
    /// Leave the last lab up and say how to enter it
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let screen = Screen::new();
    match show(&args, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failed();
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &Args, screen: &Screen) -> anyhow::Result<()> {
    let settings = match args.mode.as_slice() {
        [] if args.pair => &[],
        [] => Setting::USUAL,
        chosen => chosen,
    };
    let began = std::time::Instant::now();
    let mut outcomes: Vec<(Setting, Outcome)> = Vec::new();
    let mut kept = None;
    let with_pair = args.mode.is_empty() && !args.ipv6 && !args.keep;
    let scenes = settings.len() + usize::from(with_pair);
    for (number, setting) in settings.iter().enumerate() {
        let family = if args.ipv6 { "IPv6" } else { "IPv4" };
        let of = format!("{} of {scenes}", number + 1);
        screen.heading(&format!("{of}: {}, {family}", setting.title()));
        screen.paragraph(setting.explanation());
        let mut scene = Scene::build(*setting, args.ipv6, screen)?;
        outcomes.push((*setting, scene.play(args.requests, screen)?));
        if args.keep && number + 1 == settings.len() {
            kept = Some(scene.keep()?);
        }
    }
    let mut pair = None;
    if with_pair {
        screen.heading(&format!("{scenes} of {scenes}: two nodes, l2-dsr, IPv4"));
        screen.paragraph(
            "Both nodes run Futago with one configuration file. VRRP says who holds the VIP; both compute the same server\n\
             for the same packet, so connections outlive a node.",
        );
        pair = Some(pair::play(screen)?);
    }
    screen.heading("Summary");
    let went_wrong = summary::show(&outcomes, pair.as_ref(), began.elapsed(), kept.as_deref());
    anyhow::ensure!(went_wrong.is_empty(), "{}", went_wrong.join("\n       "));
    Ok(())
}
