//! `docs/api.md` against the contract, in `proto/`.

use std::fs;

use crate::{docs, root};

fn proto(name: &str) -> String {
    fs::read_to_string(root().join("proto").join(name)).unwrap()
}

fn page() -> String {
    fs::read_to_string(docs().join("api.md")).unwrap()
}

#[test]
fn every_call_has_its_place() {
    let page = page();
    for file in ["map.proto", "cluster.proto"] {
        let proto = proto(file);
        let calls = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
        let mut count = 0;
        for call in calls {
            count += 1;
            assert!(page.contains(&format!("\n### {call}\n")), "docs/api.md has no heading {call} ({file})");
        }
        assert!(count > 0, "{file} has no calls");
    }
}

#[test]
fn every_code_is_explained() {
    let proto = proto("map.proto");
    let (_, codes) = proto.split_once("enum Code {").unwrap();
    let (codes, _) = codes.split_once('}').unwrap();
    let page = page();
    let mut count = 0;
    for code in codes.lines().filter_map(|line| Some(line.trim().split_once(" = ")?.0)) {
        count += 1;
        assert!(page.contains(&format!("\n| `{code}` |")), "docs/api.md does not explain {code}");
    }
    assert!(count > 10, "{count}");
}
