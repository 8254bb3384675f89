//! A lab as text: who is connected to whom, with addresses.

use std::fmt::Write as _;

use crate::{host::Host, lab::Lab};

impl Lab {
    /// Draws the lab: switches as vertical lines, hosts as boxes beside the lines they are connected to. `notes` adds lines to
    /// a box (`("lb1", "VIP 10.0.1.100 active")`).
    pub fn picture(&self, notes: &[(&str, &str)]) -> String {
        let names: Vec<&str> = self.switches().iter().map(Host::name).collect();
        let columns: Vec<Vec<&Host>> = match names[..] {
            [_] => {
                let (left, right) = self
                    .hosts()
                    .iter()
                    .partition(|h| h.role() == crate::Role::Client);
                vec![left, right]
            }
            [first, second] => {
                let on = |host: &Host, switch| host.interfaces().iter().any(|i| i.switch == switch);
                let of = |one, two| {
                    self.hosts()
                        .iter()
                        .filter(|h| on(h, first) == one && on(h, second) == two)
                        .collect()
                };
                vec![of(true, false), of(true, true), of(false, true)]
            }
            _ => return self.list(notes),
        };
        let boxes = |hosts: &Vec<&Host>| hosts.iter().flat_map(|host| draw(host, notes)).collect();
        side_by_side(&columns.iter().map(boxes).collect::<Vec<_>>(), &names)
    }

    /// For labs that do not fit between two lines: each switch with its hosts below it.
    fn list(&self, notes: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for switch in self.switches() {
            let _ = writeln!(text, "═ {}", switch.name());
            for host in self.hosts() {
                for interface in host
                    .interfaces()
                    .iter()
                    .filter(|i| i.switch == switch.name())
                {
                    let addresses: Vec<_> = interface
                        .addresses
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    let notes: Vec<_> = notes
                        .iter()
                        .filter(|(name, _)| *name == host.name())
                        .map(|(_, note)| *note)
                        .collect();
                    let (host, interface) = (host.name(), &interface.name);
                    let line = format!(
                        "╟── {host} {interface} {} {}",
                        addresses.join(" "),
                        notes.join(" ")
                    );
                    let _ = writeln!(text, "{}", line.trim_end());
                }
            }
        }
        text
    }
}

/// A line of a column; `wired` where a cable leaves the box.
struct Line {
    text: String,
    wired: bool,
}

fn draw(host: &Host, notes: &[(&str, &str)]) -> Vec<Line> {
    let mut inside = vec![host.name().to_owned()];
    for interface in host.interfaces() {
        for (number, address) in interface.addresses.iter().enumerate() {
            let name = if number == 0 {
                interface.name.as_str()
            } else {
                ""
            };
            inside.push(format!("{name:4} {address}"));
        }
    }
    inside.extend(
        notes
            .iter()
            .filter(|(name, _)| *name == host.name())
            .map(|(_, note)| (*note).to_owned()),
    );
    let width = inside
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let edge = "─".repeat(width + 2);
    let mut lines = vec![Line {
        text: format!("┌{edge}┐"),
        wired: false,
    }];
    for (number, line) in inside.iter().enumerate() {
        lines.push(Line {
            text: format!("│ {line:width$} │"),
            wired: number == 0,
        });
    }
    lines.push(Line {
        text: format!("└{edge}┘"),
        wired: false,
    });
    lines
}

fn side_by_side(columns: &[Vec<Line>], switches: &[&str]) -> String {
    let width = |column: &[Line]| {
        column
            .iter()
            .map(|line| line.text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = String::new();
    let mut heading = String::new();
    for (column, switch) in columns.iter().zip(switches) {
        let at = heading.chars().count() + width(column) + 3;
        let start = at.saturating_sub(switch.chars().count() / 2);
        let _ = write!(
            heading,
            "{:1$}{switch}",
            "",
            start.saturating_sub(heading.chars().count())
        );
        // Back to the line's place, so that the next is counted from there.
        let _ = write!(
            heading,
            "{:1$}",
            "",
            (at + 4).saturating_sub(heading.chars().count())
        );
    }
    let _ = writeln!(text, "{}", heading.trim_end());
    for row in 0..height {
        let mut out = String::new();
        for (number, column) in columns.iter().enumerate() {
            let line = column.get(row);
            let wired = line.is_some_and(|line| line.wired);
            if number > 0 {
                let left = columns
                    .get(number - 1)
                    .and_then(|c| c.get(row))
                    .is_some_and(|line| line.wired);
                let (west, east) = (
                    if left { "───" } else { "   " },
                    if wired { "───" } else { "   " },
                );
                let bus = match (left, wired) {
                    (false, false) => '║',
                    (true, false) => '╢',
                    (false, true) => '╟',
                    (true, true) => '╫',
                };
                let _ = write!(out, "{west}{bus}{east}");
            }
            let blank = String::new();
            let cell = line.map_or(&blank, |line| &line.text);
            let fill = width(column) - cell.chars().count();
            // A cable reaches the line also from a box that is narrower than its column.
            let with = if wired && number < switches.len() {
                "─"
            } else {
                " "
            };
            let _ = write!(out, "{cell}{}", with.repeat(fill));
        }
        let _ = writeln!(text, "{}", out.trim_end());
    }
    text
}
