//! The table of a server's settings in `docs/configuration.md`, made of `raftmap serve --help`.

use std::fs;
use std::process::Command;

use crate::docs;

const PAGE: &str = "configuration.md";
const BEGIN: &str = "<!-- begin: made of `raftmap serve --help` -->\n";
const END: &str = "<!-- end -->\n";

/// What `--help` says of an option.
#[derive(Default)]
struct Setting {
    name: String,
    value: Option<String>,
    text: Vec<String>,
    choices: Vec<(String, String)>,
    variable: Option<String>,
    default: Option<String>,
}

#[test]
fn the_page_of_settings_has_what_the_program_has() {
    let path = docs().join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let renewed = format!("{before}{BEGIN}{}{END}{after}", tables());
    if std::env::var_os("BOOK_RENEW").is_some() {
        fs::write(&path, renewed).unwrap();
        return;
    }
    assert!(
        page == renewed,
        "docs/{PAGE} is not what `raftmap serve --help` says any more. To renew it:\n    \
         BOOK_RENEW=1 cargo test -p raftmap --test book settings"
    );
}

fn tables() -> String {
    let mut raftmap = Command::new(env!("CARGO_BIN_EXE_raftmap"));
    let help = raftmap.env_clear().args(["serve", "--help"]).output().unwrap();
    let mut text = String::new();
    for (heading, settings) in groups(&String::from_utf8(help.stdout).unwrap()) {
        let heading = if heading == "Options" { "Data" } else { &heading };
        text.push_str(&format!("\n## {heading}\n\n| setting | default | what it is |\n|---|---|---|\n"));
        settings.iter().for_each(|setting| text.push_str(&setting.row()));
    }
    text + "\n"
}

/// The settings under each heading of the help text.
fn groups(help: &str) -> Vec<(String, Vec<Setting>)> {
    let mut groups: Vec<(String, Vec<Setting>)> = Vec::new();
    let (_, options) = help.split_once("\nUsage: ").unwrap();
    for line in options.lines().skip(1) {
        let indent = line.len() - line.trim_start().len();
        let content = line.trim();
        if indent == 0 {
            if let Some(heading) = content.strip_suffix(':').filter(|heading| *heading != "Exit codes") {
                groups.push((heading.to_owned(), Vec::new()));
            } else if content == "Exit codes:" {
                break;
            }
            continue;
        }
        let Some((_, settings)) = groups.last_mut() else { continue };
        if let Some(option) = content.strip_prefix("--").filter(|_| indent == 6) {
            let (name, value) =
                option.split_once(' ').map_or((option, None), |(name, value)| (name, Some(value)));
            let value = value.map(|value| value.trim_matches(['<', '>']).to_owned());
            settings.push(Setting { name: name.to_owned(), value, ..Setting::default() });
        } else if content.starts_with("-h, ") {
            settings.push(Setting::default());
        } else if let Some(setting) = settings.last_mut() {
            setting.add(content);
        }
    }
    for (_, settings) in &mut groups {
        settings.retain(|setting| !setting.name.is_empty());
    }
    groups.retain(|(_, settings)| !settings.is_empty());
    groups
}

impl Setting {
    /// A line below the option.
    fn add(&mut self, line: &str) {
        let bracketed = |name: &str| line.strip_prefix(&format!("[{name}: "))?.strip_suffix(']');
        if let Some(variable) = bracketed("env") {
            self.variable = Some(variable.trim_end_matches('=').to_owned());
        } else if let Some(default) = bracketed("default") {
            self.default = Some(default.to_owned());
        } else if let Some((choice, meaning)) = line.strip_prefix("- ").and_then(|line| line.split_once(':'))
        {
            self.choices.push((choice.to_owned(), meaning.trim().to_owned()));
        } else if let Some(choices) = bracketed("possible values") {
            self.choices.extend(choices.split(", ").map(|choice| (choice.to_owned(), String::new())));
        } else if !line.is_empty() && line != "Possible values:" {
            self.text.push(line.to_owned());
        }
    }

    fn row(&self) -> String {
        let Self { name, value, variable, .. } = self;
        let flag = value.as_ref().map_or(format!("--{name}"), |value| format!("--{name} {value}"));
        // The file cannot name itself.
        let in_file = (name != "config").then(|| format!("`{name}`"));
        let names = [Some(format!("`{flag}`")), in_file, variable.as_ref().map(|name| format!("`{name}`"))];
        let names: Vec<String> = names.into_iter().flatten().collect();
        let mut text = self.text.join(" ");
        // What cannot be said in one value is said in words.
        let in_words = text.rfind("[default: ").map(|at| text.split_off(at));
        let in_words = in_words.map(|words| words["[default: ".len()..].trim_end_matches(']').to_owned());
        let default = match (&self.default, in_words) {
            (Some(default), _) => format!("`{default}`"),
            (None, Some(words)) => words,
            (None, None) if value.is_none() => "`false`".to_owned(),
            (None, None) => "none".to_owned(),
        };
        for (choice, meaning) in &self.choices {
            let meaning = if meaning.is_empty() { String::new() } else { format!(": {}", meaning) };
            text = format!("{}<br>`{choice}`{meaning}", text.trim_end());
        }
        format!("| {} | {default} | {} |\n", names.join("<br>"), text.trim_end().replace('|', "\\|"))
    }
}
