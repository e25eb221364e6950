//! Every input of the corpus, given to its decoder.

use std::fs;
use std::path::Path;

use raftmap_fuzz::TARGETS;

#[test]
fn every_input_of_the_corpus_keeps_the_rules() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for file in fs::read_dir(corpus.join(name)).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let kept = std::panic::catch_unwind(|| target(&bytes));
            assert!(kept.is_ok(), "{} breaks a rule", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
