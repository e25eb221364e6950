//! What may stand where the cursor is: commands, options, and keys that the cluster has.

use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::commands::Commands;

/// How many keys are offered.
const KEYS_MAX: u32 = 100;
/// How long somebody waits for them. What no server says by then is not offered.
const KEYS_TIMEOUT: Duration = Duration::from_millis(500);

/// What completes lines.
pub(super) struct Completion<'a> {
    commands: &'a Commands,
    definition: Command,
}

/// What may stand at a place.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// One of these words.
    Words(Vec<String>),
    /// A key.
    Key,
    /// Anything.
    Anything,
}

impl<'a> Completion<'a> {
    pub(super) fn new(commands: &'a Commands) -> Self {
        let mut definition = Commands::definition();
        definition.build();
        Self { commands, definition }
    }

    /// Keys of the cluster that begin with `prefix` and can be typed, as some server has them.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let ask = async {
            let scan = self.commands.client().await.ok()?.scan().prefix(prefix.to_owned());
            let scan = scan.keys_only().stale().limit(KEYS_MAX).timeout(KEYS_TIMEOUT);
            let (mut pages, mut keys) = (scan.await.ok()?, Vec::new());
            while let Some(page) = pages.next_page().await.ok()? {
                let texts = page.entries.iter().filter_map(|entry| std::str::from_utf8(&entry.key).ok());
                let typed = texts.filter(|key| !key.contains(char::is_control) && !key.starts_with('-'));
                keys.extend(typed.map(str::to_owned));
            }
            Some(keys)
        };
        let in_time = async { tokio::time::timeout(KEYS_TIMEOUT, ask).await };
        self.commands.runtime().block_on(in_time).ok().flatten().unwrap_or_default()
    }
}

impl Completer for Completion<'_> {
    type Candidate = Pair;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = word_start(&line[..cursor]);
        let (Some(before), Some(word)) = (shlex::split(&line[..start]), unquoted(&line[start..cursor]))
        else {
            return Ok((cursor, Vec::new()));
        };
        let offered = match wanted(&self.definition, &before, &word) {
            Wanted::Words(words) => words.into_iter().filter(|offered| offered.starts_with(&word)).collect(),
            Wanted::Key => self.keys(&word),
            Wanted::Anything => Vec::new(),
        };
        Ok((start, pairs(offered)))
    }
}

// The rest of what an editor can be helped with.
impl Hinter for Completion<'_> {
    type Hint = String;
}
impl Highlighter for Completion<'_> {}
impl Validator for Completion<'_> {}
impl Helper for Completion<'_> {}

/// What is shown, and what is put in place of the word. Behind the only one the next word may begin.
fn pairs(offered: Vec<String>) -> Vec<Pair> {
    let behind = if offered.len() == 1 { " " } else { "" };
    let quoted = |word: String| {
        let replacement = format!("{}{behind}", shlex::try_quote(&word).ok()?);
        Some(Pair { display: word, replacement })
    };
    offered.into_iter().filter_map(quoted).collect()
}

/// Where the word begins that the end of `before` is in; the end itself, if that is between words.
fn word_start(before: &str) -> usize {
    let (mut start, mut quote, mut is_escaped) = (None, None, false);
    for (at, letter) in before.char_indices() {
        let is_between = quote.is_none() && !is_escaped && letter.is_ascii_whitespace();
        start = if is_between { None } else { start.or(Some(at)) };
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if quote != Some('\'') => is_escaped = true,
            '\'' | '"' if quote.is_none() => quote = Some(letter),
            letter if quote == Some(letter) => quote = None,
            _ => {}
        }
    }
    start.unwrap_or(before.len())
}

/// The beginning of a word without its quotes, of which the last may be open.
fn unquoted(word: &str) -> Option<String> {
    if word.ends_with('\\') && shlex::split(word).is_none() {
        return None;
    }
    let closed = ["", "'", "\""].iter().find_map(|end| shlex::split(&format!("{word}{end}")));
    closed.map(|words| words.concat())
}

/// What may stand behind the words `before`; `word` is what is there of it.
fn wanted(definition: &Command, before: &[String], word: &str) -> Wanted {
    let before = before.strip_prefix(&["raftmap".to_owned()]).unwrap_or(before);
    let names = || definition.get_subcommands().map(|command| command.get_name().to_owned());
    let (name, arguments) = match before {
        [] => return Wanted::Words(names().collect()),
        [help] if help == "help" => return Wanted::Words(names().collect()),
        [name, arguments @ ..] => (name, arguments),
    };
    let Some(command) = definition.find_subcommand(name) else { return Wanted::Anything };
    let (mut values, mut option, mut are_options_over) = (0, None, false);
    for argument in arguments {
        if option.take().is_some() {
            continue;
        }
        match argument.strip_prefix("--") {
            Some("") => are_options_over = true,
            Some(long) if !are_options_over => option = option_of(command, long),
            _ => values += 1,
        }
    }
    if let Some(option) = option {
        return of_arg(option, arguments);
    }
    if word.starts_with('-') && !are_options_over {
        let long = |arg: &Arg| arg.get_long().map(|long| format!("--{long}"));
        return Wanted::Words(command.get_arguments().filter_map(long).collect());
    }
    let mut positionals = command.get_positionals();
    let several = |arg: &&Arg| matches!(arg.get_action(), ArgAction::Append);
    let positional = positionals.nth(values).or_else(|| command.get_positionals().last().filter(several));
    positional.map_or(Wanted::Anything, |arg| of_arg(arg, arguments))
}

/// The option of this name that still needs its value.
fn option_of<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    let mut options = command.get_arguments();
    options.find(|arg| arg.get_long() == Some(long) && arg.get_action().takes_values())
}

fn of_arg(arg: &Arg, arguments: &[String]) -> Wanted {
    let is_plain = !arguments.iter().any(|argument| argument == "--hex" || argument == "--base64");
    let is_key = |name: &str| name == "KEY" || name == "PREFIX";
    let names = arg.get_value_names().unwrap_or_default();
    if is_plain && names.iter().any(|name| is_key(name)) { Wanted::Key } else { Wanted::Anything }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(before: &str) -> Wanted {
        let mut definition = Commands::definition();
        definition.build();
        let start = word_start(before);
        wanted(&definition, &shlex::split(&before[..start]).unwrap(), &unquoted(&before[start..]).unwrap())
    }

    fn words(wanted: Wanted) -> Vec<String> {
        let Wanted::Words(words) = wanted else { panic!("{wanted:?}") };
        words
    }

    #[test]
    fn the_word_at_the_cursor_is_found_whatever_quotes_it() {
        for (line, start, word) in [
            ("", 0, ""),
            ("ge", 0, "ge"),
            ("get ", 4, ""),
            ("get 'a b", 4, "a b"),
            ("get a\\ b", 4, "a b"),
            ("get \"a'b ", 4, "a'b "),
            ("put 'a b' c", 10, "c"),
            ("get ö", 4, "ö"),
        ] {
            assert_eq!(
                (word_start(line), unquoted(&line[start..]).as_deref()),
                (start, Some(word)),
                "{line}"
            );
        }
        assert_eq!(unquoted("a\\"), None);
    }

    #[test]
    fn commands_options_and_keys_are_offered_in_their_places() {
        for line in ["", "g", "help ", "raftmap "] {
            let offered = words(at(line));
            assert!(
                ["get", "members", "quit", "help"].iter().all(|name| offered.contains(&(*name).to_owned()))
            );
        }
        let offered = words(at("scan --"));
        assert!(offered.contains(&"--reverse".to_owned()) && !offered.contains(&"--absent".to_owned()));
        for line in
            ["get ", "get --json us", "del a ", "cas ", "scan us", "scan --start ", "put ", "get -- -a"]
        {
            assert_eq!(at(line), Wanted::Key, "{line}");
        }
        for line in ["put k ", "get k ", "scan --limit ", "get --hex ", "put k --file ", "gut "] {
            assert_eq!(at(line), Wanted::Anything, "{line}");
        }
    }

    #[test]
    fn what_is_offered_is_quoted_where_it_must_be() {
        let replacement = |words: &[&str]| -> Vec<String> {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            pairs(words).into_iter().map(|pair| pair.replacement).collect()
        };
        assert_eq!(replacement(&["a"]), ["a "]);
        assert_eq!(replacement(&["a b", "c"]), ["'a b'", "c"]);
    }
}
