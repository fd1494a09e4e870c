//! `cargo xtask arm`: the AArch64 build and its tests, on any other Linux machine. Cross-compiles the
//! program, then runs the tests of the kernels and the engine under qemu's user emulation, on a
//! processor without dot products and on one with everything, and looks which kernels were picked.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Instant;

use crate::Command;

/// `cargo xtask arm`.
pub const COMMAND: Command =
    Command { name: "arm", help: "cross-compile for AArch64 and run the engine's tests under qemu", run };

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// Either will do; Debian has the second in `qemu-user`, the first in `qemu-user-static`.
const EMULATORS: &[&str] = &["qemu-aarch64-static", "qemu-aarch64"];
/// What runs the arithmetic.
const TESTED: &[&str] = &["-p", "kernels", "-p", "engine"];

/// Processors to emulate, and the best instruction set that each has.
const PROCESSORS: &[(&str, &str)] = &[("cortex-a72", "neon"), ("max", "neon_i8mm")];

fn run(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("`{argument}`: `cargo xtask arm` takes no arguments"));
    }
    let tools = Tools::find()?;
    let started = Instant::now();
    println!("arm: building the program");
    tools.cargo(&["build", "-p", "tandem"], None)?;
    for &(processor, isa) in PROCESSORS {
        println!("arm: testing on {processor}, whose best set is {isa}");
        tools.check_detection(processor, isa)?;
        tools.cargo(&[&["test"], TESTED].concat(), Some(processor))?;
    }
    println!("arm: all passed, {} s", started.elapsed().as_secs());
    Ok(())
}

/// What cross-compiling and emulating need besides Cargo.
struct Tools {
    emulator: &'static str,
    /// Where the emulated program's C library is.
    libraries: PathBuf,
}

impl Tools {
    /// Looks for them all; the error lists what is missing and how to get it.
    fn find() -> Result<Tools, String> {
        let mut missing = Vec::new();
        let standard_library =
            output("rustc", &["--print", "target-libdir", "--target", TARGET]).map(PathBuf::from);
        if !standard_library.is_some_and(|folder| folder.is_dir()) {
            missing.push(format!("Rust's standard library for {TARGET}: rustup target add {TARGET}"));
        }
        let libc = output(LINKER, &["-print-file-name=libc.so.6"]).map(PathBuf::from);
        let libraries = libc.as_deref().and_then(root_of);
        if libraries.is_none() {
            missing.push(format!(
                "{LINKER} with a C library: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
            ));
        }
        let emulator = EMULATORS.iter().find(|name| output(name, &["--version"]).is_some());
        if emulator.is_none() {
            missing.push(format!("{}: apt-get install qemu-user-static", EMULATORS.join(" or ")));
        }
        match (emulator, libraries) {
            (Some(emulator), Some(libraries)) if missing.is_empty() => Ok(Tools { emulator, libraries }),
            _ => Err(format!("arm: missing on this machine:\n  {}", missing.join("\n  "))),
        }
    }

    /// Runs Cargo for the target; what it builds runs on `processor`.
    fn cargo(&self, arguments: &[&str], processor: Option<&str>) -> Result<(), String> {
        let status = self.command(arguments, processor).status();
        let status = status.map_err(|error| format!("arm: cannot start cargo: {error}"))?;
        let on = processor.map(|processor| format!(" on {processor}")).unwrap_or_default();
        let failed = || Err(format!("arm: `cargo {}` failed{on}", arguments.join(" ")));
        if status.success() { Ok(()) } else { failed() }
    }

    /// Whether the program finds `isa` to be the best set on `processor`: it lists those it found, best
    /// first, when asked for one that does not exist.
    fn check_detection(&self, processor: &str, isa: &str) -> Result<(), String> {
        let mut program = self.command(&["run", "-p", "tandem"], Some(processor));
        let output = program.args(["--", "bench", "none"]).env("TANDEM_ISA", "none").output();
        let output = output.map_err(|error| format!("arm: cannot start cargo: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains(&format!("this CPU has: {isa}, ")) {
            return Ok(());
        }
        Err(format!("arm: {isa} is not the best set on {processor}: {}", said.trim()))
    }

    /// Cargo for the target; what it builds runs on `processor`.
    fn command(&self, arguments: &[&str], processor: Option<&str>) -> Process {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut process = Process::new(cargo);
        process.args(arguments).args(["--locked", "--target", TARGET]).current_dir(crate::root());
        process.env(variable("LINKER"), LINKER);
        if let Some(processor) = processor {
            let libraries = self.libraries.display();
            process.env(variable("RUNNER"), format!("{} -L {libraries} -cpu {processor}", self.emulator));
        }
        process
    }
}

/// Name of the environment variable that sets `key` of the target in Cargo's configuration.
fn variable(key: &str) -> String {
    format!("CARGO_TARGET_{}_{key}", TARGET.to_uppercase().replace('-', "_"))
}

/// The folder whose `lib` holds the file, if the file is there: a compiler without one names it bare.
fn root_of(library: &Path) -> Option<PathBuf> {
    let library = library.canonicalize().ok()?;
    Some(library.parent()?.parent()?.to_path_buf())
}

/// What a program prints, trimmed; nothing if it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Process::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_configured_by_its_own_names() {
        assert_eq!(variable("LINKER"), "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
    }

    #[test]
    fn the_root_is_above_lib_and_only_of_what_exists() {
        let folder = std::env::temp_dir().join(format!("tandem-arm-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("lib")).unwrap();
        let library = folder.join("lib").join("libc.so.6");
        assert_eq!(root_of(&library), None);
        std::fs::write(&library, "").unwrap();
        assert_eq!(root_of(&library), Some(folder.canonicalize().unwrap()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
