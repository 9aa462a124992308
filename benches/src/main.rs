//! `fairway-bench`: see [`benches::program`].

fn main() -> anyhow::Result<()> {
    benches::program::main()
}
