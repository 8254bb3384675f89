//! A TOML table read by its schema: each getter gives the value with its position, or reports and gives nothing.

use core::net::IpAddr;

use toml::de::{DeTable, DeValue};

use super::{
    address,
    diagnostic::{Diagnostic, Sink, Span},
    schema::{Absent, Key, Kind, SECTIONS, Section},
    suggest::nearest,
    words::Word,
};

/// A value and where it stands; a default stands where its section begins.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Span,
}

pub(super) struct Table<'t> {
    /// The header, which stands for the table as a whole.
    pub span: Span,
    section: &'static Section,
    entries: &'t DeTable<'t>,
    sink: &'t Sink,
}

impl<'t> Table<'t> {
    /// Reports every key that `section` does not have.
    pub fn open(
        section: &'static Section,
        entries: &'t DeTable<'t>,
        span: Span,
        sink: &'t Sink,
    ) -> Self {
        for key in entries.keys() {
            if !section
                .keys
                .iter()
                .any(|known| known.name == key.get_ref().as_ref())
            {
                sink.push(unknown_key(section, key.get_ref(), key.span()));
            }
        }
        Self {
            span,
            section,
            entries,
            sink,
        }
    }

    pub fn name<N: TryFrom<String>>(&self, key: &Key) -> Option<At<N>>
    where
        N::Error: core::fmt::Display,
    {
        let text = self.text(key)?;
        match N::try_from(text.value) {
            Ok(value) => Some(At {
                value,
                span: text.span,
            }),
            Err(error) => {
                self.sink.push(Diagnostic::error(
                    text.span,
                    format!("`{}`: {error}", key.name),
                ));
                None
            }
        }
    }

    pub fn text(&self, key: &Key) -> Option<At<String>> {
        let (value, span) = self.get(key)?;
        match value.as_str() {
            Some(text) => Some(At {
                value: text.to_owned(),
                span,
            }),
            None => self.wrong_type(key, value, span),
        }
    }

    pub fn address(&self, key: &Key) -> Option<At<IpAddr>> {
        let text = self.text(key)?;
        match address::parse(key.name, &text.value, text.span.clone()) {
            Ok(value) => Some(At {
                value,
                span: text.span,
            }),
            Err(diagnostic) => {
                self.sink.push(diagnostic);
                None
            }
        }
    }

    /// In the key's range, which fits `N`.
    pub fn number<N: TryFrom<i64>>(&self, key: &Key) -> Option<At<N>> {
        let Kind::Number { min, max } = key.kind else {
            debug_assert!(false, "`{}` is read as a number", key.name);
            return None;
        };
        let (number, span) = match (self.get(key), key.absent) {
            (None, Absent::Number(default)) => (Some(default), self.span.clone()),
            (None, _) => return None,
            (Some((value, span)), _) => match value.as_integer() {
                Some(integer) => (
                    i64::from_str_radix(integer.as_str(), integer.radix()).ok(),
                    span,
                ),
                None => return self.wrong_type(key, value, span),
            },
        };
        match number
            .filter(|n| (min..=max).contains(n))
            .and_then(|n| N::try_from(n).ok())
        {
            Some(value) => Some(At { value, span }),
            None => {
                let shown = number.map_or_else(|| "too large".to_owned(), |n| n.to_string());
                self.sink.push(
                    Diagnostic::error(
                        span,
                        format!("`{}` is {shown}, outside {min} to {max}", key.name),
                    )
                    .label(format!("a number from {min} to {max}")),
                );
                None
            }
        }
    }

    pub fn word<W: Word>(&self, key: &Key) -> Option<At<W>> {
        let find = |word: &str| {
            W::WORDS
                .iter()
                .find(|(known, _)| *known == word)
                .map(|(_, value)| *value)
        };
        let Some((value, span)) = self.get(key) else {
            return match key.absent {
                Absent::Word(default) => find(default).map(|value| At {
                    value,
                    span: self.span.clone(),
                }),
                _ => None,
            };
        };
        let Some(text) = value.as_str() else {
            return self.wrong_type(key, value, span);
        };
        if let Some(value) = find(text) {
            return Some(At { value, span });
        }
        let known: Vec<&str> = W::WORDS.iter().map(|(word, _)| *word).collect();
        let diagnostic = Diagnostic::error(span, format!("`{}` cannot be {text:?}", key.name))
            .help(format!("`{}` is one of: {}", key.name, quoted(&known)));
        self.sink.push(match nearest(text, known) {
            Some(meant) => diagnostic.label(format!("did you mean \"{meant}\"?")),
            None => diagnostic.label("not known"),
        });
        None
    }

    /// Where exactly this text stands at `key`.
    pub fn is_text(&self, key: &Key, text: &str) -> Option<Span> {
        let value = self.entries.get(key.name)?;
        (value.get_ref().as_str() == Some(text)).then(|| value.span())
    }

    /// Whether anything stands at `key`, right or wrong.
    pub fn has(&self, key: &Key) -> bool {
        self.entries.contains_key(key.name)
    }

    /// The elements that are strings; the others are reported.
    pub fn texts(&self, key: &Key) -> Option<At<Vec<At<String>>>> {
        let (value, span) = self.get(key)?;
        let Some(array) = value.as_array() else {
            return self.wrong_type(key, value, span);
        };
        let texts = array
            .iter()
            .filter_map(|element| match element.get_ref().as_str() {
                Some(text) => Some(At {
                    value: text.to_owned(),
                    span: element.span(),
                }),
                None => {
                    let found = element.get_ref().type_str();
                    self.sink.push(
                        Diagnostic::error(
                            element.span(),
                            format!("`{}` holds text, not {}", key.name, article(found)),
                        )
                        .help(format!("such as {} = {}", key.name, key.example)),
                    );
                    None
                }
            });
        Some(At {
            value: texts.collect(),
            span,
        })
    }

    pub fn flag(&self, key: &Key) -> Option<At<bool>> {
        match (self.get(key), key.absent) {
            (None, Absent::Flag(value)) => Some(At {
                value,
                span: self.span.clone(),
            }),
            (None, _) => None,
            (Some((value, span)), _) => match value.as_bool() {
                Some(value) => Some(At { value, span }),
                None => self.wrong_type(key, value, span),
            },
        }
    }

    /// The elements that are addresses; the others are reported.
    pub fn addresses(&self, key: &Key) -> Option<At<Vec<At<IpAddr>>>> {
        let texts = self.texts(key)?;
        let addresses = texts.value.into_iter().filter_map(|text| {
            match address::parse(key.name, &text.value, text.span.clone()) {
                Ok(value) => Some(At {
                    value,
                    span: text.span,
                }),
                Err(diagnostic) => {
                    self.sink.push(diagnostic);
                    None
                }
            }
        });
        Some(At {
            value: addresses.collect(),
            span: texts.span,
        })
    }

    /// The entries that are numbers in the key's range, which fits `N`; the others are reported.
    pub fn numbers_by_name<N: TryFrom<i64>>(&self, key: &Key) -> Option<Vec<(At<String>, At<N>)>> {
        let Kind::NumbersByName { min, max } = key.kind else {
            debug_assert!(false, "`{}` is read as numbers by name", key.name);
            return None;
        };
        let (value, span) = self.get(key)?;
        let Some(table) = value.as_table() else {
            return self.wrong_type(key, value, span);
        };
        let entries = table.iter().filter_map(|(name, value)| {
            let number = value
                .get_ref()
                .as_integer()
                .and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok())
                .filter(|n| (min..=max).contains(n))
                .and_then(|n| N::try_from(n).ok());
            let Some(number) = number else {
                self.sink.push(
                    Diagnostic::error(
                        value.span(),
                        format!(
                            "`{}.{}` is no number from {min} to {max}",
                            key.name,
                            name.get_ref()
                        ),
                    )
                    .label(format!("a number from {min} to {max}")),
                );
                return None;
            };
            let name = At {
                value: name.get_ref().as_ref().to_owned(),
                span: name.span(),
            };
            Some((
                name,
                At {
                    value: number,
                    span: value.span(),
                },
            ))
        });
        Some(entries.collect())
    }

    pub fn table(&self, key: &Key) -> Option<Table<'t>> {
        let Kind::Table(section) = key.kind else {
            debug_assert!(false, "`{}` is read as a table", key.name);
            return None;
        };
        let (value, span) = self.get(key)?;
        match value.as_table() {
            Some(entries) => Some(Table::open(section, entries, span, self.sink)),
            None => self.wrong_type(key, value, span),
        }
    }

    pub fn tables(&self, key: &Key) -> Vec<Table<'t>> {
        let Kind::Tables(section) = key.kind else {
            debug_assert!(false, "`{}` is read as tables", key.name);
            return Vec::new();
        };
        let Some((value, span)) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.as_array() else {
            self.wrong_type::<()>(key, value, span.clone());
            // Its keys are judged all the same, so that one run shows every mistake.
            return value
                .as_table()
                .map(|t| Table::open(section, t, span, self.sink))
                .into_iter()
                .collect();
        };
        let open = |element: &'t toml::Spanned<DeValue<'t>>| match element.get_ref().as_table() {
            Some(entries) => Some(Table::open(section, entries, element.span(), self.sink)),
            None => self.wrong_type(key, element.get_ref(), element.span()),
        };
        array.iter().filter_map(open).collect()
    }

    /// Name and table; only tables.
    pub fn named_tables(&self, key: &Key) -> Vec<(At<String>, Table<'t>)> {
        let Kind::NamedTables(section) = key.kind else {
            debug_assert!(false, "`{}` is read as named tables", key.name);
            return Vec::new();
        };
        let Some((value, span)) = self.get(key) else {
            return Vec::new();
        };
        let Some(named) = value.as_table() else {
            self.wrong_type::<()>(key, value, span);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, value) in named {
            let at = At {
                value: name.get_ref().as_ref().to_owned(),
                span: name.span(),
            };
            match value.get_ref().as_table() {
                Some(entries) => {
                    tables.push((at, Table::open(section, entries, value.span(), self.sink)))
                }
                None if section.keys.iter().any(|known| known.name == at.value) => self.sink.push(
                    Diagnostic::error(
                        at.span,
                        format!("`{}` stands outside of a named section", at.value),
                    )
                    .label("of which one?")
                    .help(format!("begin the section with its name: {}", key.example)),
                ),
                None => {
                    let found = article(value.get_ref().type_str());
                    self.sink.push(
                        Diagnostic::error(
                            value.span(),
                            format!("`{}.{}` is {found}, not a section", key.name, at.value),
                        )
                        .help(format!("such as {}", key.example)),
                    );
                }
            }
        }
        tables
    }

    /// What stands at `key`; `None` if nothing does, which is reported if it must not be.
    fn get(&self, key: &Key) -> Option<(&'t DeValue<'t>, Span)> {
        debug_assert!(
            self.section
                .keys
                .iter()
                .any(|known| core::ptr::eq(*known, key)),
            "`{}` is not in the schema of {}",
            key.name,
            self.section.header
        );
        if let Some(value) = self.entries.get(key.name) {
            return Some((value.get_ref(), value.span()));
        }
        if matches!(key.absent, Absent::Refused) && !self.has_misspelt(key) {
            let example = match key.kind {
                Kind::Table(_) | Kind::Tables(_) | Kind::NamedTables(_) => key.example.to_owned(),
                _ => format!("{} = {}", key.name, key.example),
            };
            self.sink.push(
                Diagnostic::error(
                    self.span.clone(),
                    format!("{} has no `{}`", self.section.header, key.name),
                )
                .help(format!("add: {example}")),
            );
        }
        None
    }

    /// Whether an unknown key, which is reported, was probably meant to be `key`.
    fn has_misspelt(&self, key: &Key) -> bool {
        self.entries
            .keys()
            .any(|written| meant(self.section, written.get_ref()) == Some(key.name))
    }

    fn wrong_type<T>(&self, key: &Key, found: &DeValue<'_>, span: Span) -> Option<T> {
        let wanted = match key.kind {
            Kind::Name | Kind::Text | Kind::Address | Kind::Word(_) => "text in quotes",
            Kind::Number { .. } => "a number",
            Kind::TextList | Kind::AddressList => "a list",
            Kind::Flag => "true or false",
            Kind::NumbersByName { .. } => "a table of numbers",
            Kind::Table(_) => "a section",
            Kind::Tables(_) => "a list of sections",
            Kind::NamedTables(_) => "a section with a name",
        };
        let help = match (key.kind, found.as_str()) {
            (Kind::Number { .. }, Some(text)) if text.parse::<i64>().is_ok() => {
                format!("write it without quotes: {} = {text}", key.name)
            }
            (Kind::TextList | Kind::AddressList, Some(text)) => {
                format!("write it in brackets: {} = [{text:?}]", key.name)
            }
            (Kind::Table(_), _) => format!("begin it with {}", key.example),
            (Kind::Tables(_), _) => format!("begin each with double brackets: {}", key.example),
            (Kind::NamedTables(_), _) => format!("begin each with its name: {}", key.example),
            _ => format!("such as {} = {}", key.name, key.example),
        };
        self.sink.push(
            Diagnostic::error(
                span,
                format!(
                    "`{}` is {}, not {wanted}",
                    key.name,
                    article(found.type_str())
                ),
            )
            .label(format!("{wanted} is expected"))
            .help(help),
        );
        None
    }
}

/// The key of `section` that an unknown key was probably meant to be.
fn meant(section: &Section, unknown: &str) -> Option<&'static str> {
    let elsewhere = SECTIONS
        .iter()
        .any(|section| section.keys.iter().any(|key| key.name == unknown));
    if elsewhere {
        None
    } else {
        nearest(unknown, section.keys.iter().map(|key| key.name))
    }
}

fn unknown_key(section: &'static Section, key: &str, span: Span) -> Diagnostic {
    let diagnostic = Diagnostic::error(span, format!("unknown key `{key}` in {}", section.header));
    let elsewhere: Vec<&str> = SECTIONS
        .iter()
        .filter(|s| s.keys.iter().any(|k| k.name == key))
        .map(|s| s.header)
        .collect();
    if !elsewhere.is_empty() {
        diagnostic.label(format!("belongs in {}", elsewhere.join(" or ")))
    } else if let Some(meant) = meant(section, key) {
        diagnostic.label(format!("did you mean `{meant}`?"))
    } else {
        let names: Vec<&str> = section.keys.iter().map(|k| k.name).collect();
        diagnostic.label("not known").help(format!(
            "keys of {}: {}",
            section.header,
            names.join(", ")
        ))
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

fn article(type_name: &str) -> String {
    match type_name {
        "integer" | "array" => format!("an {type_name}"),
        "string" => "text".to_owned(),
        _ => format!("a {type_name}"),
    }
}
