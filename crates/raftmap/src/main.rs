//! The `raftmap` binary.

mod cli;

/// What a request allocates on one thread is often freed on another, which glibc's allocator takes a lock for
/// (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
