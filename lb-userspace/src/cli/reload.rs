//! `futago reload`: apply what has changed in the configuration file.

use super::{
    Failure, block_on,
    client::SocketArgument,
    output::{count, print},
};
use crate::daemon::command::Reloaded;

/// Have the daemon read its configuration file again and apply the difference
///
/// A file with a mistake changes nothing: the mistakes are shown, and what was in force stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  futago reload
  futago check /etc/futago.toml && futago reload

Exit codes: 0 applied, 1 nothing was changed.")]
pub(super) struct Reload {
    #[command(flatten)]
    socket: SocketArgument,
}

impl Reload {
    pub fn run(self) -> Result<(), Failure> {
        let client = self.socket.client();
        let reloaded = block_on(async { Ok(client.reload().await?) })?;
        Ok(print(&text(&reloaded))?)
    }
}

fn text(reloaded: &Reloaded) -> String {
    let changes: Vec<_> = [
        ("added", &reloaded.added),
        ("removed", &reloaded.removed),
        ("changed", &reloaded.changed),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| {
        format!(
            "{} {what} ({})",
            count(names.len(), "service"),
            names.join(", ")
        )
    })
    .collect();
    let changes = if changes.is_empty() {
        "no service changed".to_owned()
    } else {
        changes.join(", ")
    };
    let notes = reloaded.notes.iter().map(|note| format!("note: {note}\n"));
    format!("reloaded: {changes}\n{}", notes.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_changed() {
        assert_eq!(text(&Reloaded::default()), "reloaded: no service changed\n");
        let reloaded = Reloaded {
            added: vec!["dns".to_owned(), "mail".to_owned()],
            changed: vec!["web".to_owned()],
            notes: vec!["max_slots takes effect at a restart".to_owned()],
            ..Reloaded::default()
        };
        assert_eq!(
            text(&reloaded),
            "reloaded: 2 services added (dns, mail), 1 service changed (web)\n\
             note: max_slots takes effect at a restart\n"
        );
    }
}
