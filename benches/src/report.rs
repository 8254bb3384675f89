//! `docs/benchmarks.md` and its plots, from result files.

mod page;
mod plot;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::result::Row;

/// Writes the page and its plots into a directory.
pub fn write(rows: &[Row], files: &[PathBuf], directory: &Path) -> Result<()> {
    ensure!(!rows.is_empty(), "the files have no rows");
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(directory.join("images"))?;
    let mut plots = Vec::new();
    for (suite, case) in page::cases(rows) {
        let name = format!("images/bench-{suite}-{}.svg", case.replace(' ', "-"));
        if let Some(svg) = plot::svg(rows, suite, case) {
            put(&name, &svg)?;
            plots.push((suite, case, name));
        }
    }
    put("benchmarks.md", &page::text(rows, files, &plots))
}
