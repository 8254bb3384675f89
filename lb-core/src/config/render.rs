//! Diagnostics as text for people: the line of the file, what is meant underlined, in the form that rustc uses.

use core::fmt;

use super::diagnostic::{Diagnostic, Report, Severity, Span};

/// Wider lines are cut around what is underlined.
const MAX_LINE_CHARS: usize = 160;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in self.diagnostics() {
            self.write(f, diagnostic)?;
            writeln!(f)?;
        }
        let count = |n: usize, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let counts: Vec<_> = [
            count(self.errors(), "error"),
            count(self.warnings(), "warning"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !counts.is_empty() {
            writeln!(f, "{}: {}", self.file, counts.join(", "))?;
        }
        Ok(())
    }
}

impl Report {
    fn write(&self, f: &mut fmt::Formatter<'_>, diagnostic: &Diagnostic) -> fmt::Result {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", visible(&diagnostic.message))?;
        let spans =
            core::iter::once(&diagnostic.span).chain(diagnostic.related.iter().map(|r| &r.span));
        let last_line = spans
            .map(|span| self.position(span.start).line)
            .max()
            .unwrap_or(1);
        let width = last_line.to_string().len();

        self.write_snippet(f, width, &diagnostic.span, '^', &diagnostic.label)?;
        for related in &diagnostic.related {
            self.write_snippet(f, width, &related.span, '-', &related.label)?;
        }
        if let Some(help) = &diagnostic.help {
            writeln!(f, "{:width$} = help: {}", "", visible(help))?;
        }
        Ok(())
    }

    fn write_snippet(
        &self,
        f: &mut fmt::Formatter<'_>,
        width: usize,
        span: &Span,
        mark: char,
        label: &str,
    ) -> fmt::Result {
        let position = self.position(span.start);
        let line = self.text.lines().nth(position.line - 1).unwrap_or_default();
        let start = position.column - 1;
        let marked = self
            .text
            .get(self.char_boundary(span.start)..self.char_boundary(span.end))
            .and_then(|text| text.lines().next())
            .map_or(0, |text| text.chars().count())
            .max(1);

        let skip = if start + marked > MAX_LINE_CHARS {
            start.saturating_sub(MAX_LINE_CHARS / 4)
        } else {
            0
        };
        let shown = visible(
            &line
                .chars()
                .skip(skip)
                .take(MAX_LINE_CHARS)
                .collect::<String>(),
        );
        let marks = mark
            .to_string()
            .repeat(marked.min(MAX_LINE_CHARS - (start - skip).min(MAX_LINE_CHARS - 1)));

        writeln!(
            f,
            "{:width$}--> {}:{}:{}",
            "", self.file, position.line, position.column
        )?;
        writeln!(f, "{:width$} |", "")?;
        writeln!(
            f,
            "{}",
            format!("{:>width$} | {shown}", position.line).trim_end()
        )?;
        let text = format!(
            "{:indent$}{marks} {}",
            "",
            visible(label),
            indent = start - skip
        );
        writeln!(f, "{:width$} | {}", "", text.trim_end())
    }
}

/// One column a character: a tab or an escape sequence of the file must not move the cursor of a terminal.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}
