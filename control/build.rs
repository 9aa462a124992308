//! Compiles the XDP program with clang and leaves the object where `claim.rs` includes it.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/claim.bpf.c");
    let object = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("claim.bpf.o");
    let headers = std::env::var("DEP_BPF_INCLUDE").expect("libbpf-sys says where libbpf's headers are");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the architecture");
    let status = Command::new("clang")
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", "src/claim.bpf.c"])
        .arg(format!("-I{headers}"))
        // Debian keeps <asm/types.h> by architecture.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-o")
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang could not compile src/claim.bpf.c ({status})"),
        Err(error) => panic!("clang is needed to compile the XDP program: apt-get install clang ({error})"),
    }
}
