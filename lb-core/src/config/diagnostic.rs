//! What is wrong, where, and what to write instead: the mistakes and warnings of one file.

use core::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use serde::Serialize;

/// Bytes of the file.
pub type Span = Range<usize>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    Warning,
}

/// One mistake or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong, in one line that can stand alone.
    pub message: String,
    pub span: Span,
    /// Written beside the underlined text; may be empty.
    pub label: String,
    /// Other places that take part, such as the first of two declarations.
    pub related: Vec<Related>,
    /// What to write instead.
    pub help: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    pub span: Span,
    pub label: String,
}

impl Diagnostic {
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            label: String::new(),
            related: Vec::new(),
            help: None,
        }
    }

    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push(Related {
            span,
            label: label.into(),
        });
        self
    }
}

/// Where the parts of the reader put what they find; one file at a time.
#[derive(Default)]
pub(super) struct Sink(RefCell<Vec<Diagnostic>>);

impl Sink {
    pub fn push(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub fn into_inner(self) -> Vec<Diagnostic> {
        self.0.into_inner()
    }
}

/// TOML's own errors, with a hint where its words do not say what to write.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let diagnostic = Diagnostic::error(span.clone(), error.message());
    match unquoted_value(text, span) {
        Some(value) => diagnostic
            .label("text is written in quotes")
            .help(format!("write \"{value}\"")),
        None => diagnostic,
    }
}

/// The value around `span` if it is an address or a word that lacks its quotes.
fn unquoted_value(text: &str, span: Span) -> Option<&str> {
    let outside = |c: char| !c.is_ascii_alphanumeric() && !".:/-_+".contains(c);
    let before = text.get(..span.start)?;
    let start = before.trim_end_matches(|c| !outside(c)).len();
    let value = text.get(start..)?.split(outside).next()?;
    let is_value = before
        .get(..start)?
        .trim_end_matches([' ', '\t'])
        .ends_with(['=', ',', '[']);
    let is_text = value.parse::<IpAddr>().is_ok()
        || value.parse::<SocketAddr>().is_ok()
        || value.starts_with(|c: char| c.is_ascii_alphabetic());
    (is_value && is_text).then_some(value)
}

/// All diagnostics of one file, with its text, so that they can be shown. `Display` gives the text for people.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) file: String,
    pub(super) text: String,
    diagnostics: Vec<Diagnostic>,
}

/// Line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A diagnostic for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    #[serde(flatten)]
    pub position: Position,
    pub message: String,
    /// What is written beside the underlined text, and the help.
    pub hint: Vec<String>,
}

impl Report {
    pub(super) fn new(file: &str, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|d| (d.span.start, d.severity));
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            diagnostics,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .count()
    }

    /// How many of them are warnings.
    pub fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }

    /// In the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    pub fn findings(&self) -> Vec<Finding> {
        let finding = |d: &Diagnostic| Finding {
            severity: d.severity,
            file: self.file.clone(),
            position: self.position(d.span.start),
            message: d.message.clone(),
            hint: [Some(&d.label), d.help.as_ref()]
                .into_iter()
                .flatten()
                .filter(|h| !h.is_empty())
                .cloned()
                .collect(),
        };
        self.diagnostics.iter().map(finding).collect()
    }

    /// The start of the character that `offset` is in.
    pub(super) fn char_boundary(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset)
            .rev()
            .find(|at| self.text.is_char_boundary(*at))
            .unwrap_or_default()
    }

    /// Any offset is taken; one beyond the end is the end.
    pub fn position(&self, offset: usize) -> Position {
        let before = self
            .text
            .get(..self.char_boundary(offset))
            .unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }
}

impl core::error::Error for Report {}
