//! The reference of all keys as Markdown, from the schema that the reader uses, so that it cannot be out of date.

use core::fmt::Write;

use super::schema::{Absent, Key, Kind, SECTIONS};

/// One table for each section, in the order in which people read them.
pub fn markdown() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let title = if section.header.starts_with('[') {
            format!("`{}`", section.header)
        } else {
            "Sections".to_owned()
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "### {title}\n\n{}\n\n", section.meaning);
        let _ = writeln!(
            text,
            "| key | type | default | meaning | example |\n|---|---|---|---|---|"
        );
        for key in section.keys {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | `{}` |",
                key.name,
                type_of(key),
                default(key),
                key.meaning,
                key.example
            );
        }
        text.push('\n');
    }
    text
}

fn type_of(key: &Key) -> String {
    match key.kind {
        Kind::Name | Kind::Text => "text".to_owned(),
        Kind::Address => "IP address".to_owned(),
        Kind::Number { min, max } if max == i64::MAX => format!("number, {min} to 2⁶³ − 1"),
        Kind::Number { min, max } => format!("number, {min} to {max}"),
        Kind::Word(words) => words()
            .iter()
            .map(|word| format!("`\"{word}\"`"))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::TextList => "list of text".to_owned(),
        Kind::Flag => "`true`, `false`".to_owned(),
        Kind::AddressList => "list of IP addresses".to_owned(),
        Kind::NumbersByName { min, max } => format!("number, {min} to {max}, by node"),
        Kind::Table(_) => "section".to_owned(),
        Kind::Tables(_) => "sections".to_owned(),
        Kind::NamedTables(_) => "named sections".to_owned(),
    }
}

fn default(key: &Key) -> String {
    match key.absent {
        Absent::Refused => "*required*".to_owned(),
        Absent::Number(number) => number.to_string(),
        Absent::Flag(value) => value.to_string(),
        Absent::Word(word) => format!("`\"{word}\"`"),
        Absent::Means(meaning) => meaning.to_owned(),
    }
}
