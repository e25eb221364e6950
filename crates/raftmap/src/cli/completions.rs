//! `raftmap completions` and `raftmap man`: what the definition of all arguments is good for beside reading them.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::exit::{self, Failure};
use super::output;

const COMPLETIONS: &str = "\
Examples:
    raftmap completions bash > /etc/bash_completion.d/raftmap
    raftmap completions zsh > \"${fpath[1]}/_raftmap\"
    raftmap completions fish > ~/.config/fish/completions/raftmap.fish";

/// Print what a shell needs to complete commands and options
#[derive(Args)]
#[command(before_help = COMPLETIONS, after_help = exit::TABLE)]
pub(crate) struct Completions {
    /// For which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

const MAN: &str = "\
Examples:
    raftmap man --out /usr/local/share/man/man1 && man raftmap-put
  One page, without a folder:
    raftmap man put | man -l -";

/// Make manual pages, of the same text as --help
#[derive(Args)]
#[command(before_help = MAN, after_help = exit::TABLE)]
pub(crate) struct ManPages {
    /// The command whose page to print [default: that of raftmap itself]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    command: Option<String>,

    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Completions {
    pub(crate) fn run(self, mut raftmap: Command) -> Result<(), Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut raftmap, "raftmap", &mut text);
        output::bytes(&text)
    }
}

impl ManPages {
    pub(crate) fn run(self, mut raftmap: Command) -> Result<(), Failure> {
        raftmap.build();
        let failed = |error: io::Error| Failure::Failed(format!("a page cannot be made: {error}"));
        let Some(folder) = &self.out else {
            let command = match &self.command {
                None => Some(&raftmap),
                Some(name) => raftmap.find_subcommand(name),
            };
            let command = command
                .ok_or_else(|| Failure::Usage("there is no such command; see `raftmap --help`".to_owned()))?;
            return output::bytes(&page(command).map_err(failed)?);
        };
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
        for command in all(&raftmap) {
            let path = folder.join(format!("{}.1", command.get_display_name().unwrap_or(command.get_name())));
            fs::write(&path, page(command).map_err(failed)?)
                .map_err(|error| Failure::io("write", &path, &error))?;
        }
        Ok(())
    }
}

/// A command and all those below it, but for `help`.
fn all(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    std::iter::once(command).chain(below.flat_map(all)).collect()
}

/// The manual page of a command. Its examples, with which --help opens, stand before its options.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if let Some(examples) = command.get_before_help() {
        text.extend_from_slice(section("EXAMPLES", &examples.to_string()).as_bytes());
    }
    man.render_options_section(&mut text)?;
    if command.get_subcommands().any(|below| below.get_name() != "help") {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(codes) = command.get_after_help() {
        text.extend_from_slice(section("EXIT STATUS", &codes.to_string()).as_bytes());
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut text)?;
    }
    Ok(text)
}

/// Lines as they are, under a heading; the first of them says the same as that.
fn section(heading: &str, lines: &str) -> String {
    let mut text = format!(".SH {heading}\n.nf\n");
    for line in lines.lines().skip(1) {
        // A line that begins with a point or an apostrophe would be a request to the formatter.
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        text.push_str(&format!("{guard}{line}\n"));
    }
    text.push_str(".fi\n");
    text
}
