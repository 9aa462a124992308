//! The bench program for `cargo bench`.

fn main() -> anyhow::Result<()> {
    benches::program::main()
}
