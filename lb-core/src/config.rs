//! From the text of the one configuration file to a [`Model`], or to every mistake in it with its position and
//! what to write instead. Nothing of a file with an error reaches the dataplane.
//!
//! ```text
//! text ─► toml ─► file (spanned sections, checked key by key) ─► rules (what must hold among them) ─► Model
//!                   ▲
//!                 schema (every key: type, default, range, meaning) ─► reference (docs/configuration.md)
//! ```

mod address;
mod diagnostic;
mod file;
mod reader;
pub mod reference;
mod render;
mod rules;
mod schema;
mod suggest;
#[cfg(test)]
mod tests;
mod words;

use crate::model::Model;

pub use self::{
    diagnostic::{Diagnostic, Finding, Position, Related, Report, Severity},
    rules::next_prime,
};

/// A file without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub model: Model,
    /// What is allowed and probably not meant; may be empty.
    pub warnings: Report,
}

/// Reads a configuration; `file` is only its name in messages.
///
/// An `Err` holds every mistake, with warnings among them, in the order of the file. A file that is not TOML is
/// judged by its syntax alone: what was recovered from it would be blamed for mistakes that nobody made.
pub fn parse(file: &str, text: &str) -> Result<Loaded, Report> {
    let (table, syntax) = toml::de::DeTable::parse_recoverable(text);
    let sink = diagnostic::Sink::default();
    let model = if syntax.is_empty() {
        rules::check(file::read(table.get_ref(), &sink), &sink)
    } else {
        for error in &syntax {
            sink.push(diagnostic::syntax(text, error));
        }
        None
    };
    let report = Report::new(file, text, sink.into_inner());
    match model {
        Some(model) if report.errors() == 0 => Ok(Loaded {
            model,
            warnings: report,
        }),
        _ => Err(report),
    }
}

/// Like [`parse`], for bytes as they are on disk.
pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Loaded, Report> {
    match str::from_utf8(bytes) {
        Ok(text) => parse(file, text),
        Err(error) => {
            let at = error.valid_up_to();
            let text = String::from_utf8_lossy(bytes);
            let diagnostic = Diagnostic::error(at..at + 1, "this is not UTF-8 text")
                .label("the first byte that is not")
                .help("save the file in UTF-8");
            Err(Report::new(file, &text, vec![diagnostic]))
        }
    }
}
