//! What the services at the port for clients are, for whoever asks a server by reflection: the files of `proto/` that declare
//! them, compiled.
//!
//! None of them imports another one, and none extends a message; the build fails if that changes.

/// A file that was compiled.
#[derive(Debug)]
pub struct File {
    /// Its name, as an `import` would have it.
    pub name: &'static str,
    /// The `google.protobuf.FileDescriptorProto` of it, encoded, with its comments.
    pub descriptor: &'static [u8],
    /// The services that it declares, by their full names.
    pub services: &'static [&'static str],
    messages: &'static [&'static str],
    others: &'static [&'static str],
}

/// All of them.
pub static FILES: &[File] = &include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));

/// The file of this name.
pub fn file(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}

/// The file that declares a service, a message, or anything else, by its full name.
pub fn file_with(symbol: &str) -> Option<&'static File> {
    FILES.iter().find(|file| {
        [file.services, file.messages, file.others].iter().any(|symbols| symbols.contains(&symbol))
    })
}

/// Whether there is a message of this full name.
pub fn is_message(name: &str) -> bool {
    FILES.iter().any(|file| file.messages.contains(&name))
}
