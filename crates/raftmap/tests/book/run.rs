//! Runs the commands of the pages.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use crate::expect::Indexes;
use crate::page::{Block, Page, pages};
use crate::ports::Ports;
use crate::session::{Came, Session};
use crate::{NOT_RUN, RECORDS};

/// Pages at once: each has servers of its own.
const AT_ONCE: usize = 3;

/// A page on its way.
struct Running<'a> {
    pages: &'a [Page],
    session: Session,
    ports: Ports,
    indexes: Indexes,
    has_curl: bool,
    /// Whether what comes is printed: one page alone is run.
    tells: bool,
    /// What was left out.
    left_out: Vec<String>,
}

#[test]
fn every_command_does_what_its_page_says() {
    let only = std::env::var("BOOK_PAGE").ok();
    let pages = pages();
    let has_curl = std::process::Command::new("curl").arg("--version").output().is_ok();
    let is_run =
        |page: &&Page| !RECORDS.contains(&&*page.name) && only.as_ref().is_none_or(|only| *only == page.name);
    let waiting: Mutex<VecDeque<&Page>> = Mutex::new(pages.iter().filter(is_run).collect());
    let (failures, left_out) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(page) = { waiting.lock().unwrap().pop_front() } {
                    let mut running = Running::new(&pages, has_curl, only.is_some());
                    if let Err(failure) = running.page(page) {
                        failures.lock().unwrap().push(failure);
                    }
                    left_out.lock().unwrap().append(&mut running.left_out);
                }
            });
        }
    });
    for line in left_out.into_inner().unwrap() {
        println!("{line}");
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n\n{}", failures.join("\n\n"));
}

impl<'a> Running<'a> {
    fn new(pages: &'a [Page], has_curl: bool, tells: bool) -> Self {
        let (ports, indexes) = (Ports::default(), Indexes::default());
        Self { pages, session: Session::start(), ports, indexes, has_curl, tells, left_out: Vec::new() }
    }

    fn page(&mut self, page: &Page) -> Result<(), String> {
        if let Some((before, anchor)) = &page.begins_with {
            let before = self.pages.iter().find(|each| each.name == *before);
            let before =
                before.ok_or_else(|| format!("docs/{}: it begins with a page that is none", page.name))?;
            let in_section = |block: &&Block| block.sections.contains(anchor);
            let blocks: Vec<_> = before.blocks.iter().filter(in_section).collect();
            if blocks.is_empty() {
                return Err(format!(
                    "docs/{}: docs/{} has no commands under #{anchor}",
                    page.name, before.name
                ));
            }
            blocks.into_iter().try_for_each(|block| self.block(before, block))?;
        }
        page.blocks.iter().try_for_each(|block| self.block(page, block))
    }

    fn block(&mut self, page: &Page, block: &Block) -> Result<(), String> {
        if block.language != "console" || block.is_marked("norun") {
            return Ok(());
        }
        let steps = block.steps().map_err(|(line, reason)| format!("{}: {reason}", page.place(line)))?;
        for step in steps {
            let at = page.place(step.line);
            if step.command.contains("curl ") && !self.has_curl {
                self.left_out.push(format!("SKIPPED, as there is no curl: {at}: {}", step.command));
                continue;
            }
            let command = step.command.replace("cargo run --profile quick -- ", "raftmap ");
            let command = self.indexes.to_real(&command).map_err(|reason| format!("{at}: {reason}"))?;
            let began = Instant::now();
            let came = self.session.run(&self.ports.freed(&command));
            let Came { output, code } = came
                .map_err(|reason| format!("{at}: $ {}\n{reason}\n{}", step.command, self.session.logs()))?;
            let output = self.ports.of_page(&output);
            let lines: Vec<&str> = output.trim_end().lines().collect();
            if self.tells {
                println!(
                    "$ {}    # {:?}\n{}",
                    step.command,
                    began.elapsed(),
                    told(lines.iter().copied(), code)
                );
            }
            if code != step.code || !self.indexes.fit(&step.output, &lines, block.is_marked("like")) {
                return Err(format!(
                    "{at}: $ {}\nexpected:\n{}came:\n{}{}{}",
                    step.command,
                    told(step.output.iter().map(String::as_str), step.code),
                    told(lines, code),
                    self.indexes,
                    self.session.logs(),
                ));
            }
        }
        Ok(())
    }
}

fn told<'a>(lines: impl IntoIterator<Item = &'a str>, code: i32) -> String {
    let mut text: String = lines.into_iter().map(|line| format!("    {line}\n")).collect();
    if code != 0 {
        text.push_str(&format!("    (exit code {code})\n"));
    }
    text
}

#[test]
fn what_is_not_run_is_known() {
    let mut not_run = Vec::new();
    for page in pages().iter().filter(|page| !RECORDS.contains(&&*page.name)) {
        for block in page.blocks.iter().filter(|block| block.has_commands()) {
            let at = page.place(block.line);
            assert_eq!(block.language, "console", "{at}: commands stand in blocks of console, which are run");
            for mark in &block.marks {
                assert!(["like", "norun"].contains(&&**mark), "{at}: there is no mark {mark}");
            }
            if block.is_marked("norun") {
                not_run.push(format!("{at}: {}", block.lines[0]));
            }
        }
    }
    println!("not run, as their pages are records: {}", RECORDS.join(", "));
    println!("not run:\n{}", not_run.join("\n"));
    assert_eq!(
        not_run.len(),
        NOT_RUN,
        "blocks marked norun; NOT_RUN in book/main.rs says how many there are"
    );
}
