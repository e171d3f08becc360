//! docs/security.md: each test that it names is there.

use std::path::Path;

#[test]
fn every_test_that_the_security_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let named: Vec<(&str, &str)> = document.split('`').filter_map(|text| text.split_once(".rs::")).collect();
    assert!(named.len() >= 30, "{named:?}");
    for (file, name) in named {
        let path = format!("{file}.rs");
        let source = std::fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (before, _) = source.split_once(&format!("fn {name}(")).unwrap_or_else(|| panic!("{path} has no {name}"));
        let attributes: Vec<&str> = before.lines().rev().skip(usize::from(!before.ends_with('\n'))).take(3).collect();
        assert!(attributes.iter().any(|line| line.contains("test")), "{path}: {name} is not a test");
    }
    for risk in 1..=10 {
        assert!(document.contains(&format!("## API{risk}: ")), "API{risk} is missing");
    }
}
