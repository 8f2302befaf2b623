//! Generates the gRPC code from `proto/`, with protox instead of an installed protoc.

use std::{error::Error, path::PathBuf};

const API: &str = "carillon.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    if std::env::var_os("CARGO_FEATURE_GRPC").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files([API])?;
    // Whole: only this form keeps the options of google.api, from which the routes of HTTP/JSON are read.
    std::fs::write(out.join("carillon.bin"), compiler.encode_file_descriptor_set())?;
    // No message of ours has a field of what is imported, so no code is needed of it.
    let mut ours = compiler.file_descriptor_set();
    ours.file.retain(|file| file.name() == API);
    tonic_prost_build::configure().compile_fds(ours)?;
    Ok(())
}
