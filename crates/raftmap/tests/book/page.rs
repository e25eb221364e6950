//! The pages, and what of them is run.

use std::fs;

use crate::docs;

/// A page of the book.
pub(crate) struct Page {
    /// Its path below `docs`.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Block>,
    /// Page and anchor of the section whose commands come first.
    pub(crate) begins_with: Option<(String, String)>,
}

/// A fenced block.
pub(crate) struct Block {
    /// The line of its fence, from 1.
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) marks: Vec<String>,
    /// The anchors of the headings that it stands under.
    pub(crate) sections: Vec<String>,
    pub(crate) lines: Vec<String>,
}

/// A command of a block, and what comes of it.
pub(crate) struct Step {
    /// The line of its page, from 1.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) output: Vec<String>,
    pub(crate) code: i32,
}

/// The pages that `SUMMARY.md` names, in its order.
pub(crate) fn pages() -> Vec<Page> {
    names().iter().map(|name| Page::read(name)).collect()
}

/// Their paths.
pub(crate) fn names() -> Vec<String> {
    let summary = fs::read_to_string(docs().join("SUMMARY.md")).unwrap();
    let target = |line: &str| Some(line.split_once("](")?.1.split_once(')')?.0.to_owned());
    summary.lines().filter_map(target).collect()
}

impl Page {
    pub(crate) fn read(name: &str) -> Self {
        let text =
            fs::read_to_string(docs().join(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"));
        let begins_with = text.lines().find_map(|line| {
            let (_, target) = line.strip_prefix("> Begin with [")?.split_once("](")?;
            let (page, anchor) = target.split_once(')')?.0.split_once('#')?;
            Some((target_of(name, page), anchor.to_owned()))
        });
        Self { name: name.to_owned(), blocks: blocks(&text), text, begins_with }
    }

    /// Where a line of it is.
    pub(crate) fn place(&self, line: usize) -> String {
        format!("docs/{}:{line}", self.name)
    }
}

/// The page that another one links to by `path`.
pub(crate) fn target_of(name: &str, path: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut headings: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.trim_start();
        if inside && content.trim_end() == "```" {
            inside = false;
        } else if inside {
            blocks.last_mut().unwrap().lines.push(line.to_owned());
        } else if let Some(info) = content.strip_prefix("```") {
            let mut words = info.split(',').map(|word| word.trim().to_owned());
            let language = words.next().unwrap_or_default();
            let sections = headings.iter().map(|(_, anchor)| anchor.clone()).collect();
            blocks.push(Block {
                line: number,
                language,
                marks: words.collect(),
                sections,
                lines: Vec::new(),
            });
            inside = true;
        } else if let Some((level, title)) = heading(line) {
            headings.retain(|(above, _)| *above < level);
            headings.push((level, anchor(title)));
        }
    }
    assert!(!inside, "a block without an end");
    blocks
}

/// The level and the title of a heading.
pub(crate) fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.bytes().take_while(|byte| *byte == b'#').count();
    let title = line.get(level..)?.strip_prefix(' ')?;
    (1..=6).contains(&level).then_some((level, title.trim()))
}

/// What a heading is linked by, in the book as in a repository's pages.
pub(crate) fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

impl Block {
    pub(crate) fn is_marked(&self, mark: &str) -> bool {
        self.marks.iter().any(|each| each == mark)
    }

    /// Whether somebody who reads it is to type something.
    pub(crate) fn has_commands(&self) -> bool {
        matches!(&*self.language, "sh" | "bash" | "shell" | "console")
            || self.lines.iter().any(|line| line.starts_with("$ "))
    }

    /// The commands.
    ///
    /// # Errors
    /// What is wrong with the block, and its line.
    pub(crate) fn steps(&self) -> Result<Vec<Step>, (usize, String)> {
        let mut steps: Vec<Step> = Vec::new();
        for (number, line) in (self.line + 1..).zip(&self.lines) {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { line: number, command: command.to_owned(), output: Vec::new(), code: 0 });
                continue;
            }
            let Some(step) = steps.last_mut() else {
                return Err((number, "there is output before the first command".to_owned()));
            };
            let continues = line.strip_prefix("> ").or((line == ">").then_some(""));
            match (continues, exit_code(line)) {
                (Some(more), _) if step.output.is_empty() => step.command.push_str(&format!("\n{more}")),
                (_, Some(code)) => step.code = code,
                _ => step.output.push(line.clone()),
            }
        }
        Ok(steps)
    }
}

fn exit_code(line: &str) -> Option<i32> {
    line.strip_prefix("(exit code ")?.strip_suffix(')')?.parse().ok()
}
