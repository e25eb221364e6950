//! Generates the messages of etcd that are needed from `proto/`, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use buffa_codegen::{BytesRepr, CodeGenConfig};

const FILE: &str = "etcd.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let protos = Path::new("proto");
    println!("cargo:rerun-if-changed={}", protos.display());
    let set = PathBuf::from(env::var("OUT_DIR")?).join("etcd.fds");
    let mut compiler = protox::Compiler::new([protos])?;
    fs::write(&set, compiler.include_imports(true).open_files([FILE])?.encode_file_descriptor_set())?;

    let mut messages = CodeGenConfig::default();
    messages.generate_json = true;
    messages.preserve_unknown_fields = false;
    messages.emit_register_fn = false;
    messages.bytes_fields = vec![(".".to_owned(), BytesRepr::Bytes)];
    messages.unboxed_oneof_fields = vec![".".to_owned()];
    connectrpc_build::Config::new()
        .descriptor_set(set)
        .files(&[FILE])
        .buffa_config(messages)
        .include_file("_connectrpc.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
