//! The status as a table for people: aligned columns, and colour where it says something.

use std::net::SocketAddr;

use lb_core::{drain::Origin, health, model::OnDrainEnd};

use super::output::{bytes, duration, grouped};
use crate::{
    api::status::{BackendStatus, InterfaceStatus, ReasonStatus, ServiceStatus, Status},
    vrrp::status::{Election, Path, VirtualRouter},
};

const BAR_CELLS: usize = 10;
/// Enough to tell configurations apart.
const DIGEST_DIGITS: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Plain,
    Bold,
    Faint,
    Green,
    Yellow,
    Red,
}

impl Colour {
    /// Parameter of the "select graphic rendition" sequence (ECMA-48 §8.3.117).
    fn code(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::Bold => Some(1),
            Self::Faint => Some(2),
            Self::Red => Some(31),
            Self::Green => Some(32),
            Self::Yellow => Some(33),
        }
    }
}

struct Cell {
    text: String,
    colour: Colour,
    right: bool,
}

fn left(text: impl Into<String>) -> Cell {
    // Reasons come from the network in part; they must not move the cursor.
    let text = text.into().replace(char::is_control, "\u{fffd}");
    Cell {
        text,
        colour: Colour::Plain,
        right: false,
    }
}

fn right(text: impl Into<String>) -> Cell {
    Cell {
        right: true,
        ..left(text)
    }
}

impl Cell {
    fn colour(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }
}

/// `colour`: with escape sequences.
pub(super) fn render(status: &Status, colour: bool) -> String {
    let mut text = String::new();
    let mut write = |indent: &str, rows: Vec<Vec<Cell>>| text += &aligned(indent, rows, colour);

    write("", vec![headline(status)]);
    write("", status.interfaces.iter().map(interface).collect());
    if let Some(election) = &status.election {
        let rows = election.routers.iter().map(router);
        write("", vec![vec![left("")]]);
        write("", core::iter::once(router_head()).chain(rows).collect());
        write("  ", rejected(election));
    }
    for service in &status.services {
        write("", vec![vec![left("")], service_line(service)]);
        if let Some(error) = &service.error {
            let line = left(format!("the last change is not in force: {error}"));
            write("  ", vec![vec![line.colour(Colour::Red)]]);
        }
        let rows = service.backends.iter().map(backend);
        write("  ", core::iter::once(backend_head()).chain(rows).collect());
    }
    let seen: Vec<_> = status.reasons.iter().filter(|r| r.packets > 0).collect();
    if !seen.is_empty() {
        let rows = seen.into_iter().map(reason);
        write("", vec![vec![left("")]]);
        write("", core::iter::once(reason_head()).chain(rows).collect());
    }
    text
}

fn headline(status: &Status) -> Vec<Cell> {
    let digest: String = status.config_digest.chars().take(DIGEST_DIGITS).collect();
    let tables = if status.adopted {
        "tables adopted"
    } else {
        "tables new"
    };
    vec![
        left(&status.node).colour(Colour::Bold),
        left(format!("futago {}", status.version)),
        left(format!("up {}", duration(status.uptime_s))),
        left(format!("configuration {digest}")),
        left(tables),
    ]
}

fn interface(interface: &InterfaceStatus) -> Vec<Cell> {
    let colour = match (interface.xdp.as_str(), interface.program_id) {
        ("native", Some(_)) => Colour::Green,
        ("generic", Some(_)) => Colour::Yellow,
        _ => Colour::Red,
    };
    let program = match interface.program_id {
        Some(id) => format!("program {id}"),
        None => "no program".to_owned(),
    };
    vec![
        left(&interface.name),
        left(format!("xdp {}", interface.xdp)).colour(colour),
        left(program),
    ]
}

fn router_head() -> Vec<Cell> {
    let head = vec![
        left("VIRTUAL ROUTER"),
        left("STATE"),
        left("FOR"),
        left("BECAUSE"),
        right("PRIORITY"),
        left("INTERFACE"),
        left("ADDRESSES"),
        left("ACTIVE HEARD"),
        left("PEER ANSWERS"),
    ];
    head.into_iter().map(|c| c.colour(Colour::Faint)).collect()
}

fn router(router: &VirtualRouter) -> Vec<Cell> {
    let colour = match router.state.as_str() {
        "active" => Colour::Green,
        "backup" => Colour::Plain,
        _ => Colour::Red,
    };
    let because = if router.stands_down {
        format!("{}, stands down", router.reason)
    } else {
        router.reason.clone()
    };
    let addresses: Vec<String> = router.addresses.iter().map(ToString::to_string).collect();
    let silent = router.paths.iter().any(|path| !path.up);
    let paths: Vec<String> = router.paths.iter().map(path).collect();
    let paths = left(paths.join(", "));
    vec![
        left(&router.name).colour(Colour::Bold),
        left(&router.state).colour(colour),
        left(duration(router.since_ms / 1000)),
        left(because),
        right(router.priority.to_string()),
        left(&router.interface),
        left(addresses.join(" ")),
        left(router.peer.map(|peer| peer.to_string()).unwrap_or_default()),
        if silent {
            paths.colour(Colour::Red)
        } else {
            paths
        },
    ]
}

fn path(path: &Path) -> String {
    let word = if path.up { "" } else { " silent" };
    format!("{} {}{word}", path.node, path.interface)
}

/// Adverts that were not used, a line for each virtual router that has some.
fn rejected(election: &Election) -> Vec<Vec<Cell>> {
    let routers = election.routers.iter();
    let routers = routers.map(|router| (router.name.as_str(), &router.rejects));
    let stray = [("no virtual router", &election.stray_rejects)];
    routers
        .chain(stray)
        .filter(|(_, rejects)| !rejects.is_empty())
        .map(|(name, rejects)| {
            let counts: Vec<String> = rejects
                .iter()
                .map(|(reason, count)| format!("{reason} {}", grouped(*count)))
                .collect();
            let line = format!("adverts of {name} rejected: {}", counts.join(", "));
            vec![left(line).colour(Colour::Yellow)]
        })
        .collect()
}

fn service_line(service: &ServiceStatus) -> Vec<Cell> {
    let vip = SocketAddr::new(service.vip, service.port);
    vec![
        left(&service.name).colour(Colour::Bold),
        left(format!("{vip}/{}", service.protocol)),
        left(service.mode.to_string()),
        left(format!("{} packets", grouped(service.packets))),
        left(bytes(service.bytes)),
    ]
}

fn backend_head() -> Vec<Cell> {
    let head = vec![
        left("BACKEND"),
        left("NAME"),
        right("WEIGHT"),
        left("STATE"),
        left("FOR"),
        left("SHARE"),
        right(""),
        right("PACKETS"),
        right("BYTES"),
        left("REASON"),
    ];
    head.into_iter().map(|c| c.colour(Colour::Faint)).collect()
}

fn backend(backend: &BackendStatus) -> Vec<Cell> {
    let (state, colour) = match (backend.state, &backend.drain) {
        (health::State::Up, Some(drain)) if drain.over => ("drained", Colour::Yellow),
        (health::State::Up, Some(_)) => ("drains", Colour::Yellow),
        (health::State::Up, None) => ("up", Colour::Green),
        (health::State::Down, _) => ("down", Colour::Red),
        (health::State::Unknown, _) => ("unknown", Colour::Yellow),
    };
    vec![
        left(SocketAddr::new(backend.address, backend.port).to_string()),
        left(backend.name.as_deref().unwrap_or_default()),
        right(backend.weight.to_string()),
        left(state).colour(colour),
        left(duration(backend.since_ms / 1000)),
        left(bar(backend.share)),
        right(format!("{:.1}%", backend.share * 100.0)),
        right(grouped(backend.packets)),
        right(bytes(backend.bytes)),
        left(reason_of(backend)),
    ]
}

/// Why it is as it is: what is left of a drain first.
fn reason_of(backend: &BackendStatus) -> String {
    let drain = backend.drain.as_ref().map(|drain| {
        let by = match drain.origin {
            Origin::File => "by the file",
            Origin::Command => "by command",
        };
        let fate = match drain.at_end {
            OnDrainEnd::Reset => "reset",
            OnDrainEnd::Rehash => "moved",
        };
        match drain.left_ms {
            _ if drain.over => format!("drained {by}: connections that are left are {fate}"),
            Some(left) => format!(
                "drains {by}: connections are {fate} in {}",
                duration(left / 1000)
            ),
            None => format!("drains {by} until its connections end"),
        }
    });
    let reasons = drain.into_iter().chain(backend.reason.clone());
    reasons.collect::<Vec<_>>().join("; ")
}

fn reason_head() -> Vec<Cell> {
    let head = vec![
        left("PACKETS THAT WERE"),
        left("BECAUSE"),
        right("PACKETS"),
        right("BYTES"),
        left(""),
    ];
    head.into_iter().map(|c| c.colour(Colour::Faint)).collect()
}

fn reason(reason: &ReasonStatus) -> Vec<Cell> {
    let dropped = reason.class == "dropped";
    let class = left(&reason.class);
    vec![
        if dropped {
            class.colour(Colour::Red)
        } else {
            class
        },
        left(&reason.reason),
        right(grouped(reason.packets)),
        right(bytes(reason.bytes)),
        left(if dropped { &reason.explanation } else { "" }),
    ]
}

/// A share that is not nothing shows.
fn bar(share: f64) -> String {
    let share = share.clamp(0.0, 1.0);
    let least = usize::from(share > 0.0);
    let full = ((share * BAR_CELLS as f64).round() as usize).clamp(least, BAR_CELLS);
    "█".repeat(full) + &"░".repeat(BAR_CELLS - full)
}

/// Rows as lines, two spaces between columns, no spaces at the end.
fn aligned(indent: &str, rows: Vec<Vec<Cell>>, colour: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();

    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        let mut pending = indent.len();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = width - cell.text.chars().count();
            if cell.right {
                pending += padding;
            }
            if !cell.text.is_empty() {
                line += &" ".repeat(pending);
                pending = 0;
                match cell.colour.code().filter(|_| colour) {
                    Some(code) => line += &format!("\x1b[{code}m{}\x1b[0m", cell.text),
                    None => line += &cell.text,
                }
            }
            if !cell.right {
                pending += padding;
            }
            // A column that is empty in all rows takes no place.
            if *width > 0 {
                pending += 2;
            }
        }
        text += &line;
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        serde_json::from_str(include_str!("../../tests/data/status.json")).expect("a status")
    }

    #[test]
    fn the_table_is_the_one_in_the_docs() {
        assert_eq!(
            render(&sample(), false),
            include_str!("../../tests/data/status.txt")
        );
    }

    #[test]
    fn colours_change_nothing_but_colour() {
        let coloured = render(&sample(), true);
        assert!(coloured.contains("\x1b[31mdown\x1b[0m"), "{coloured}");
        assert!(coloured.contains("\x1b[32mup\x1b[0m"), "{coloured}");
        let mut plain = coloured;
        for code in [0, 1, 2, 31, 32, 33] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, render(&sample(), false));
    }

    #[test]
    fn what_backends_say_cannot_move_the_cursor() {
        let mut status = sample();
        for backend in &mut status.services[0].backends {
            backend.reason = Some("\x1b[2Jgone\r\n".to_owned());
        }
        let text = render(&status, false);
        assert!(!text.contains(['\x1b', '\r']), "{text}");
    }

    #[test]
    fn a_drain_says_what_is_left_of_it() {
        let mut status = sample();
        let drain = crate::api::status::DrainStatus {
            origin: Origin::Command,
            since_ms: 1000,
            left_ms: Some(290_000),
            over: false,
            at_end: OnDrainEnd::Reset,
        };
        status.services[0].backends[0].drain = Some(drain.clone());
        let text = render(&status, false);
        assert!(text.contains("  drains  "), "{text}");
        assert!(
            text.contains("drains by command: connections are reset in 4m 50s\n"),
            "{text}"
        );
        status.services[0].backends[0].drain = Some(crate::api::status::DrainStatus {
            over: true,
            left_ms: Some(0),
            origin: Origin::File,
            at_end: OnDrainEnd::Rehash,
            ..drain
        });
        let text = render(&status, false);
        assert!(
            text.contains("drained by the file: connections that are left are moved\n"),
            "{text}"
        );
    }

    #[test]
    fn the_bar_shows_small_shares_and_bears_nonsense() {
        assert_eq!(bar(0.0), "░░░░░░░░░░");
        assert_eq!(bar(0.001), "█░░░░░░░░░");
        assert_eq!(bar(0.5), "█████░░░░░");
        assert_eq!(bar(1.0), "██████████");
        assert_eq!(bar(7.0), "██████████");
        assert_eq!(bar(f64::NAN), "░░░░░░░░░░");
    }
}
