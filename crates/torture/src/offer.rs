//! Which faults this machine offers.

use std::io;
use std::process::{Command, Stdio};

use crate::nemesis::Class;
use crate::volumes;

/// What can be done here.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Why nothing can be preloaded.
    no_shim: Option<String>,
    /// Why there can be no disks in files.
    no_volumes: Option<String>,
    /// Why what takes proxies cannot be done.
    no_proxies: Option<String>,
}

impl Offer {
    /// Looks what there is, for servers in network namespaces or with proxies between them.
    pub fn here(namespaces: bool) -> Self {
        let no_shim = if is_there("cc") { None } else { Some("a C compiler (`cc`)".to_owned()) };
        let no_volumes = if !rustix::process::geteuid().is_root() {
            Some("root, to mount disks in files".to_owned())
        } else if !is_there("mkfs.xfs") {
            Some("mkfs.xfs (the package xfsprogs)".to_owned())
        } else {
            tempfile::tempdir()
                .and_then(|folder| volumes::try_out(folder.path()))
                .err()
                .map(|error| error.to_string())
        };
        let no_proxies = namespaces.then(|| "proxies: run it without --namespaces".to_owned());
        Self { no_shim, no_volumes, no_proxies }
    }

    /// The same, without disks in files: those are small.
    #[must_use]
    pub fn without_volumes(self) -> Self {
        Self { no_volumes: Some("disks in files, which are too small for it".to_owned()), ..self }
    }

    pub(crate) fn shim(&self) -> bool {
        self.no_shim.is_none()
    }

    /// Whether there can be disks in files.
    pub fn volumes(&self) -> bool {
        self.no_volumes.is_none()
    }

    /// What is missing for a kind of fault, if anything is.
    pub fn missing(&self, class: Class) -> Option<&str> {
        match class {
            Class::SlowDisk | Class::DiskError | Class::Clock => self.no_shim.as_deref(),
            Class::FullDisk | Class::Power => self.no_volumes.as_deref(),
            Class::SlowLinks | Class::Disconnect => self.no_proxies.as_deref(),
            Class::Kill | Class::Pause | Class::Partition | Class::OneWay | Class::Members => None,
        }
    }
}

fn is_there(program: &str) -> bool {
    let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    !matches!(tried, Err(error) if error.kind() == io::ErrorKind::NotFound)
}
