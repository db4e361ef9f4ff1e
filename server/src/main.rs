//! `sluicegate`: the firmware origin, one binary. This file only picks the allocator; what a command does lies in the library.

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    sluicegate_server::cli::run()
}
