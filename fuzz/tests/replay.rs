//! Every file below `corpus/` goes through its target.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn no_input_that_was_ever_found_does_harm() {
    for (name, target) in fuzz::TARGETS {
        let files = files(&corpus().join(name));
        assert!(!files.is_empty(), "{name} has a corpus");
        for file in files {
            // The test prints it when the target panics.
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
    }
}

#[test]
fn the_corpus_is_of_targets_and_small() {
    let mut folders: Vec<PathBuf> = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders, fuzz::TARGETS.map(|(name, _)| corpus().join(name)));
    let size: u64 = folders.iter().flat_map(|folder| files(folder)).map(|file| file.metadata().unwrap().len()).sum();
    assert!(size < 300_000, "{size} bytes");
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
