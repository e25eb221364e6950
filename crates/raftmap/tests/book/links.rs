//! Links of the pages, to each other and within.

use crate::page::{Page, anchor, heading, names, pages, target_of};
use crate::{docs, root};

#[test]
fn every_link_leads_somewhere_within_the_book() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in pages.iter().filter(|page| included(page).is_none()) {
        for (line, target) in links(&page.text) {
            if let Err(reason) = check(&pages, page, &target) {
                wrong.push(format!("{}: {target}: {reason}", page.place(line)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_book() {
    let names = names();
    let mut folders = vec![docs()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(docs()).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") && name != "SUMMARY.md" {
                assert!(names.contains(&name), "docs/SUMMARY.md does not name {name}");
            }
        }
    }
}

/// What a page takes in as a whole: another file of the repository.
fn included(page: &Page) -> Option<String> {
    let path = page.text.split_once("{{#include ")?.1.split_once("}}")?.0;
    let path = docs().join(&page.name).parent().unwrap().join(path);
    Some(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Its links are right where that file lies. In the book they lead where the page lies, so that those of other folders are
/// redirected.
#[test]
fn links_of_files_of_other_places_are_redirected() {
    let pages = pages();
    let book = std::fs::read_to_string(root().join("book.toml")).unwrap();
    for page in &pages {
        for (_, target) in included(page).map(|text| links(&text)).unwrap_or_default() {
            let name = target_of(&page.name, target.split('#').next().unwrap());
            let redirect = format!("\"/{}\" = ", name.replace(".md", ".html"));
            let is_there = pages.iter().any(|each| each.name == name) || book.contains(&redirect);
            assert!(
                is_there,
                "docs/{} takes in a link to {target}: redirect /{name} in book.toml",
                page.name
            );
        }
    }
}

fn check(pages: &[Page], page: &Page, target: &str) -> Result<(), &'static str> {
    let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
    let name = match path {
        "" => page.name.clone(),
        _ => target_of(&page.name, path),
    };
    let Some(other) = pages.iter().find(|each| each.name == name) else {
        return Err(match docs().join(&name).exists() || root().join(&name).exists() {
            true => "it is no page of the book",
            false => "there is nothing there",
        });
    };
    let text = included(other).unwrap_or_else(|| other.text.clone());
    let mut titles = text.lines().filter_map(heading).map(|(_, title)| anchor(title));
    match fragment.is_empty() || titles.any(|title| title == fragment) {
        true => Ok(()),
        false => Err("the page has no such heading"),
    }
}

/// The targets of links outside of code, each with its line; not those to other places of the world.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        }
        let prose: String = line.split('`').step_by(2).collect();
        if inside || line.starts_with("    ") {
            continue;
        }
        for rest in prose.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if !target.contains("://") {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}
