//! Command lines that are kept in files, as both processes take them: `@FILE` stands for the arguments in it, one a line. It
//! must not know what they mean.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot read the arguments in {path}: {source}")]
pub struct ArgumentsError {
    path: PathBuf,
    source: io::Error,
}

/// With files replaced by what is in them. There, empty lines and those that begin with `#` say nothing.
pub fn expand(typed: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, ArgumentsError> {
    let mut expanded = Vec::new();
    for arg in typed {
        match arg.as_bytes().strip_prefix(b"@") {
            Some(path) => read(Path::new(OsStr::from_bytes(path)), &mut expanded)?,
            None => expanded.push(arg),
        }
    }
    Ok(expanded)
}

fn read(path: &Path, expanded: &mut Vec<OsString>) -> Result<(), ArgumentsError> {
    let text = std::fs::read_to_string(path).map_err(|source| ArgumentsError { path: path.to_owned(), source })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    expanded.extend(lines.map(OsString::from));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_for_its_lines_and_one_that_is_missing_is_named() {
        let path = std::env::temp_dir().join(format!("fairway-arguments-{}", std::process::id()));
        std::fs::write(&path, "# of this node\n--uplink=eth1\n\n  --pool=a b  \n").unwrap();
        let typed = [OsString::from("program"), format!("@{}", path.display()).into(), "--last".into()];
        let expanded = expand(typed.into_iter()).unwrap();
        assert_eq!(expanded, ["program", "--uplink=eth1", "--pool=a b", "--last"]);
        std::fs::remove_file(&path).unwrap();
        let error = expand([format!("@{}", path.display()).into()].into_iter()).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
