//! Compiles the `.proto` files with protox, so that no `protoc` has to be installed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 4] = [
    "browserfleet/agent/v1/link.proto",
    "browserfleet/agent/v1/media.proto",
    "browserfleet/agent/v1/enrolment.proto",
    "browserfleet/browser/v1/browser.proto",
];

/// What callers may read over reflection: the agents' messages are not theirs.
const SHOWN: &str = "browserfleet/browser/v1/";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=browserfleet");
    let descriptors = protox::compile(FILES, ["."])?;
    let mut shown = descriptors.clone();
    shown.file.retain(|it| it.name().starts_with(SHOWN));
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo names a folder")?);
    std::fs::write(folder.join("browser.bin"), shown.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
