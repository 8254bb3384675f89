//! Suite `path`: packets a second through a cable, a program or the kernel, and back to where they are counted.
//!
//! Generator, alternative and counter run one after the other on one CPU, in one softirq: the figure is the cost of a whole packet's
//! way, and the floor is the same way with a program that only swaps MAC addresses.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::load::{Order, Plan};
use lb_userspace::{
    dataplane::Dataplane,
    load::{BenchObject, Generator, Shape, Sizes, Tally},
};

use crate::{
    bed::{self, Cable},
    lru, machine,
    modes::MODES,
    result::{Effort, Row, Spread, ratio},
    services,
};

/// One alternative: packets that make it work.
struct Entrant {
    /// Line of [`MODES`]; `None` for what is measured once for each family.
    line: Option<usize>,
    v6: bool,
    alternative: &'static str,
    shape: Shape,
    plan: Plan,
    /// Frames of a round.
    frames: u32,
    mpps: Vec<f64>,
    sent: u64,
    lost: u64,
}

/// Frames by which the length of a round is found out.
const TRIAL: u32 = 1 << 17;

pub fn run(effort: &Effort) -> Result<Vec<Row>> {
    let run = machine::describe();
    bed::on_bed(|| {
        machine::pin();
        let mut dataplane = services::load(Cable::Futago.hop())?;
        attach_futago(&mut dataplane)?;
        let mut sink = BenchObject::load(Sizes::default(), &["sink", "reflect"])?;
        for cable in Cable::ALL {
            sink.attach("sink", cable.generator())?;
        }
        sink.attach("reflect", Cable::Floor.far())?;
        let mut rows = Vec::new();
        for flows in effort.flows() {
            let mut entrants = entrants(effort, flows)?;
            // Its tables are fresh for each number of flows: one that has aged is slower.
            let most = flows.max(65_536) * 4;
            let mut yardstick = BenchObject::load(
                Sizes {
                    lru_flows_v4: most,
                    lru_flows_v6: most / 2,
                },
                &["lru"],
            )?;
            lru::fill(&mut yardstick, Cable::Lru.hop())?;
            yardstick.attach("lru", Cable::Lru.far())?;
            let mut generator = BenchObject::load(Sizes::default(), &["generate"])?;
            for entrant in &mut entrants {
                warm_up(entrant, flows, &mut generator, effort)?;
            }
            for round in 0..effort.rounds() {
                eprint!(
                    "\rpath: {flows} flows, round {} of {} ",
                    round + 1,
                    effort.rounds()
                );
                for entrant in &mut entrants {
                    measure(entrant, &mut generator, &mut sink)?;
                }
            }
            eprintln!();
            rows.extend(collect(&entrants, flows, &run));
        }
        dataplane.detach()?;
        Ok(rows)
    })
}

fn attach_futago(dataplane: &mut Dataplane) -> Result<()> {
    let name = format!("lb{}", Cable::Futago.far());
    dataplane.attach_interface(&name, lb_core::model::XdpMode::Native)?;
    Ok(())
}

fn entrants(effort: &Effort, flows: u32) -> Result<Vec<Entrant>> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        let any = MODES
            .iter()
            .any(|case| case.v6 == v6 && effort.wants(&case.name()));
        if !any {
            continue;
        }
        // The floor's packets are those of the service: any will do.
        let line = MODES.iter().position(|case| case.v6 == v6).unwrap_or(0);
        all.push(entrant(
            None,
            v6,
            "floor",
            bed::shape(Cable::Floor, line, flows),
        )?);
        let to = bed::kernel_destination(v6, false);
        let shape = bed::to_address(Cable::Kernel, to, flows);
        all.push(entrant(None, v6, "kernel forwarding", shape)?);
        if !v6 && flows <= bed::conntrack_max() / 2 {
            let to = bed::kernel_destination(v6, true);
            let shape = bed::to_address(Cable::Nftables, to, flows);
            all.push(entrant(None, v6, "nftables", shape)?);
        }
        for (line, case) in MODES.iter().enumerate() {
            if case.v6 != v6 || !effort.wants(&case.name()) {
                continue;
            }
            let shape = bed::shape(Cable::Futago, line, flows);
            all.push(entrant(Some(line), v6, "futago", shape)?);
            if case.lru.is_some() {
                let shape = bed::shape(Cable::Lru, line, flows);
                all.push(entrant(Some(line), v6, "lru", shape)?);
            }
        }
    }
    Ok(all)
}

fn entrant(
    line: Option<usize>,
    v6: bool,
    alternative: &'static str,
    shape: Shape,
) -> Result<Entrant> {
    let plan = shape.plan()?;
    Ok(Entrant {
        line,
        v6,
        alternative,
        shape,
        plan,
        frames: TRIAL,
        mpps: Vec::new(),
        sent: 0,
        lost: 0,
    })
}

/// Every flow once, in order, as connections come; then a trial that says how many frames make a round.
fn warm_up(
    entrant: &mut Entrant,
    flows: u32,
    object: &mut BenchObject,
    effort: &Effort,
) -> Result<()> {
    let plan = Plan {
        order: Order::Sequential as u32,
        ..entrant.plan
    };
    let mut generator = Generator::new(object, &entrant.shape, &plan)?;
    generator.run(flows.max(TRIAL))?;
    generator.follow(&entrant.plan)?;
    let run = generator.run(TRIAL)?;
    ensure!(run.sent == u64::from(TRIAL), "the generator sent {run:?}");
    let round = if effort.quick {
        Duration::from_millis(80)
    } else {
        Duration::from_millis(600)
    };
    let frames = round.as_secs_f64() / run.took.as_secs_f64() * f64::from(TRIAL);
    entrant.frames = (frames as u32).max(TRIAL / 2);
    Ok(())
}

fn measure(entrant: &mut Entrant, object: &mut BenchObject, sink: &mut BenchObject) -> Result<()> {
    let before = Tally::read(sink)?.packets;
    let run = Generator::new(object, &entrant.shape, &entrant.plan)?.run(entrant.frames)?;
    let arrived = Tally::read(sink)?.packets - before;
    entrant
        .mpps
        .push(arrived as f64 / run.took.as_secs_f64() / 1e6);
    entrant.sent += run.sent;
    entrant.lost += run.sent.saturating_sub(arrived);
    Ok(())
}

/// A row for each mode and alternative; what is measured once for a family stands beside each of its modes.
fn collect(entrants: &[Entrant], flows: u32, run: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for (line, case) in MODES.iter().enumerate() {
        let family = || entrants.iter().filter(|entrant| entrant.v6 == case.v6);
        let Some(floor) = family().find(|entrant| entrant.alternative == "floor") else {
            continue;
        };
        if !family().any(|entrant| entrant.line == Some(line)) {
            continue;
        }
        for entrant in family().filter(|entrant| entrant.line.is_none_or(|of| of == line)) {
            rows.push(Row {
                suite: "path".into(),
                case: case.name(),
                flows,
                alternative: entrant.alternative.into(),
                mpps: Some(Spread::of(&entrant.mpps)),
                ns: None,
                value: None,
                unit: None,
                ratio_to_floor: Some(ratio(&entrant.mpps, &floor.mpps)),
                loss: entrant.lost as f64 / entrant.sent.max(1) as f64,
                rounds: entrant.mpps.len(),
                run: run.to_owned(),
            });
        }
    }
    rows
}
