//! Compiles the `.proto` files with protox, so that no `protoc` has to be installed.

use std::error::Error;

const FILES: [&str; 4] = [
    "browserfleet/agent/v1/link.proto",
    "browserfleet/agent/v1/media.proto",
    "browserfleet/agent/v1/enrolment.proto",
    "browserfleet/browser/v1/browser.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=browserfleet");
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
