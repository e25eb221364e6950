//! Generates the messages and services from `proto/`, without `protoc`, and the descriptors by which a server tells of them.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use buffa_codegen::{BytesRepr, CodeGenConfig};
use protox::prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};

/// What is generated.
const FILES: [&str; 5] = [
    "map.proto",
    "cluster.proto",
    "peer.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
];

/// What is described.
const DESCRIBED: [&str; 5] = [
    "map.proto",
    "cluster.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let protos = Path::new("../../proto");
    println!("cargo:rerun-if-changed={}", protos.display());

    let mut compiler = protox::Compiler::new([protos])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?.open_files(DESCRIBED)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    describe(&compiler.descriptor_pool(), &out)?;
    let set = out.join("raftmap.fds");
    fs::write(&set, compiler.encode_file_descriptor_set())?;

    connectrpc_build::Config::new()
        .descriptor_set(set)
        .files(&FILES)
        .buffa_config(messages())
        .gate_client_feature(true)
        .include_file("_connectrpc.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}

/// How messages look in Rust: bytes are shared slices of the buffer that they came in, variants are not boxed, and what
/// a message does not know is dropped.
fn messages() -> CodeGenConfig {
    let mut config = CodeGenConfig::default();
    config.generate_json = true;
    config.preserve_unknown_fields = false;
    config.emit_register_fn = false;
    config.bytes_fields = vec![(".".to_owned(), BytesRepr::Bytes)];
    config.unboxed_oneof_fields = vec![".".to_owned()];
    config
}

/// Writes `descriptors.rs`, an array of `File` of `src/descriptors.rs`, and beside it the descriptors themselves. They have the
/// comments of the files.
fn describe(pool: &DescriptorPool, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = "[\n".to_owned();
    for (number, name) in DESCRIBED.into_iter().enumerate() {
        let file = pool.get_file_by_name(name).ok_or("a file that was compiled is not there")?;
        if file.dependencies().len() + file.extensions().len() > 0 {
            return Err(format!("{name} imports a file or extends a message: see src/descriptors.rs").into());
        }
        let descriptor = format!("{number}.descriptor");
        fs::write(out.join(&descriptor), file.encode_to_vec())?;
        let services: Vec<_> = file.services().map(|service| service.full_name().to_owned()).collect();
        let messages = all_messages(file.messages());
        let names: Vec<_> = messages.iter().map(|message| message.full_name().to_owned()).collect();
        let others = other_symbols(&file, &messages);
        writeln!(
            text,
            "File {{ name: {name:?}, services: &{services:?}, messages: &{names:?}, others: &{others:?},"
        )?;
        writeln!(text, "descriptor: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{descriptor}\")) }},")?;
    }
    fs::write(out.join("descriptors.rs"), text + "]\n")?;
    Ok(())
}

/// These messages, and those that are declared in them.
fn all_messages(messages: impl Iterator<Item = MessageDescriptor>) -> Vec<MessageDescriptor> {
    messages
        .flat_map(|message| {
            let inner = all_messages(message.child_messages());
            std::iter::once(message).chain(inner)
        })
        .collect()
}

/// The full names of all that a file declares besides services and messages.
fn other_symbols(file: &FileDescriptor, messages: &[MessageDescriptor]) -> Vec<String> {
    let mut names = Vec::new();
    for service in file.services() {
        names.extend(service.methods().map(|method| method.full_name().to_owned()));
    }
    for message in messages {
        names.extend(message.fields().map(|field| field.full_name().to_owned()));
        names.extend(message.oneofs().map(|oneof| oneof.full_name().to_owned()));
    }
    for declared in file.enums().chain(messages.iter().flat_map(MessageDescriptor::child_enums)) {
        names.push(declared.full_name().to_owned());
        names.extend(declared.values().map(|value| value.full_name().to_owned()));
    }
    names
}
