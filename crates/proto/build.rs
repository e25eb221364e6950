//! Generates the messages and services from `proto/`, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use buffa_codegen::{BytesRepr, CodeGenConfig};

const FILES: [&str; 3] = ["map.proto", "cluster.proto", "peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let protos = Path::new("../../proto");
    println!("cargo:rerun-if-changed={}", protos.display());

    let mut compiler = protox::Compiler::new([protos])?;
    let descriptors = compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .encode_file_descriptor_set();
    let set = PathBuf::from(env::var("OUT_DIR")?).join("raftmap.fds");
    fs::write(&set, descriptors)?;

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
