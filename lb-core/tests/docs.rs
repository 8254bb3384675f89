//! What `docs/` shows of the configuration is what the reader takes.

use std::{fs, path::Path};

use lb_core::config;

const BEGIN: &str =
    "<!-- generated from the schema: UPDATE_DOCS=1 cargo test -p lb-core --test docs -->\n";
const END: &str = "<!-- end of the generated part -->\n";

fn docs(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

#[test]
fn the_reference_is_that_of_the_schema() {
    let path = docs("configuration.md");
    let text = fs::read_to_string(&path).expect("the page exists");
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the page has the generated part");
    let (written, after) = rest.split_once(END).expect("the generated part ends");
    let generated = format!("\n{}", config::reference::markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{generated}{END}{after}"))
            .expect("the page is writable");
    } else {
        assert!(
            written == generated,
            "it differs from the schema; write it anew: UPDATE_DOCS=1 cargo test -p lb-core --test docs"
        );
    }
}

#[test]
fn the_examples_are_accepted_without_a_warning() {
    let mut count = 0;
    for entry in fs::read_dir(docs("examples")).expect("the directory exists") {
        let path = entry.expect("it is readable").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = fs::read_to_string(&path).expect("it is readable");
            accept(&path.display().to_string(), &text);
            count += 1;
        }
    }
    assert!(count > 0, "there is no example");
}

#[test]
fn what_the_page_shows_as_a_whole_file_is_accepted() {
    let page = fs::read_to_string(docs("configuration.md")).expect("the page exists");
    let blocks: Vec<_> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!blocks.is_empty(), "the page shows no file");
    for block in blocks {
        accept("docs/configuration.md", block);
    }
    let minimal = fs::read_to_string(docs("examples/minimal.toml")).expect("the example exists");
    assert!(
        page.contains(minimal.trim()),
        "the page shows another minimal file than docs/examples/minimal.toml"
    );
}

fn accept(name: &str, text: &str) {
    let loaded = config::parse(name, text).unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert!(!loaded.model.services.is_empty());
}
