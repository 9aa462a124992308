//! A bundle: what a node knew at one moment, in one file that can be asked elsewhere. Control writes it; `fairway` reads the
//! listings, the dataplane the tables and flows. It is a gzipped tar, so that a person can look into it with what is at
//! hand: `about.json`, `names.json`, `listings/NAME.json`, `tables.image`, `flows/WORKER.image` (see [`crate::image`]).
//! This file must not know what listings say.

use crate::image::{self, ImageError};
use crate::layout::LAYOUT_VERSION;
use crate::message::InterfaceInfo;
use crate::owner::{SnatPorts, Worker};
use crate::region::Region;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Of which node and build a bundle is, and what its tables refer to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    pub layout_version: u64,
    pub node: String,
    /// Milliseconds since 1970.
    pub made_ms: u64,
    pub workers: u16,
    /// None: the dataplane was gone.
    pub snat: Option<SnatPorts>,
    pub interfaces: Vec<InterfaceInfo>,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("cannot read bundle {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no {entry}: it is no bundle of `fairway bundle`, or was cut short")]
    Missing { path: PathBuf, entry: String },
    #[error("{entry} of bundle {path} cannot be understood: {source}")]
    Json { path: PathBuf, entry: String, source: serde_json::Error },
    #[error(
        "bundle {path} was made by a build with layout version {theirs}, this one has {ours}: use the build that made it"
    )]
    Version { path: PathBuf, theirs: u64, ours: u64 },
    #[error("{entry} of bundle {path}: {source}")]
    Image { path: PathBuf, entry: String, source: ImageError },
}

/// Writes a bundle, entry by entry.
pub struct Writer<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    made_s: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W, about: &About) -> io::Result<Writer<W>> {
        let tar = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
        let mut writer = Writer { tar, made_s: about.made_ms / 1000 };
        writer.json("about", about)?;
        Ok(writer)
    }

    /// `NAME.json`
    pub fn json(&mut self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.entry(&format!("{name}.json"), &serde_json::to_vec_pretty(value)?)
    }

    /// `NAME.image`: a region's memory, see [`image::of`].
    pub fn image(&mut self, name: &str, image: &[u8]) -> io::Result<()> {
        self.entry(&format!("{name}.image"), image)
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.made_s);
        self.tar.append_data(&mut header, name, bytes)
    }

    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()?.finish()
    }
}

/// A bundle of this build in a file, which is read anew for each thing that it is asked for.
#[derive(Clone, Debug)]
pub struct Bundle {
    path: PathBuf,
    pub about: About,
}

impl Bundle {
    pub fn open(path: &Path) -> Result<Bundle, BundleError> {
        let about: About = parsed(path, "about.json")?;
        if about.layout_version != LAYOUT_VERSION {
            let (theirs, ours) = (about.layout_version, LAYOUT_VERSION);
            return Err(BundleError::Version { path: path.to_owned(), theirs, ours });
        }
        Ok(Bundle { path: path.to_owned(), about })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `NAME.json` says.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, BundleError> {
        parsed(&self.path, &format!("{name}.json"))
    }

    pub fn tables(&self) -> Result<Region, BundleError> {
        self.region("tables")
    }

    pub fn flows(&self, worker: Worker) -> Result<Region, BundleError> {
        self.region(&format!("flows/{worker}"))
    }

    fn region(&self, name: &str) -> Result<Region, BundleError> {
        let entry = format!("{name}.image");
        let bytes = read(&self.path, &entry)?;
        let restored = image::restore(c"fairway-bundle", &bytes);
        restored.map_err(|source| BundleError::Image { path: self.path.clone(), entry, source })
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, entry: &str) -> Result<T, BundleError> {
    let fail = |source| BundleError::Json { path: path.to_owned(), entry: entry.to_owned(), source };
    serde_json::from_slice(&read(path, entry)?).map_err(fail)
}

/// One entry's bytes.
fn read(path: &Path, entry: &str) -> Result<Vec<u8>, BundleError> {
    let find = || {
        let mut tar = tar::Archive::new(GzDecoder::new(BufReader::new(File::open(path)?)));
        for found in tar.entries()? {
            let mut found = found?;
            if found.path()? == Path::new(entry) {
                let mut bytes = Vec::new();
                found.read_to_end(&mut bytes)?;
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    };
    let found = find().map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    found.ok_or_else(|| BundleError::Missing { path: path.to_owned(), entry: entry.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn about(layout_version: u64) -> About {
        let snat = SnatPorts::new(40_000, 60_999, 1).ok();
        About { layout_version, node: "a".into(), made_ms: 1_700_000_000_000, workers: 1, snat, interfaces: Vec::new() }
    }

    fn bundle(layout_version: u64) -> Vec<u8> {
        let region = Region::create(c"test", 2048).unwrap();
        region.words()[1500].store(42, Ordering::Relaxed);
        let mut writer = Writer::new(Vec::new(), &about(layout_version)).unwrap();
        writer.json("listings/services", &["one", "two"]).unwrap();
        writer.image("tables", &image::of(region.fd()).unwrap()).unwrap();
        writer.finish().unwrap()
    }

    fn in_file<T>(name: &str, bytes: &[u8], look: impl FnOnce(&Path) -> T) -> T {
        let path = std::env::temp_dir().join(format!("fairway-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let seen = look(&path);
        std::fs::remove_file(&path).unwrap();
        seen
    }

    #[test]
    fn a_bundle_reads_back() {
        in_file("bundle", &bundle(LAYOUT_VERSION), |path| {
            let bundle = Bundle::open(path).unwrap();
            assert_eq!(bundle.about, about(LAYOUT_VERSION));
            assert_eq!(bundle.json::<Vec<String>>("listings/services").unwrap(), ["one", "two"]);
            assert_eq!(bundle.tables().unwrap().words()[1500].load(Ordering::Relaxed), 42);
            assert!(matches!(bundle.flows(0), Err(BundleError::Missing { entry, .. }) if entry == "flows/0.image"));
        });
    }

    #[test]
    fn what_is_no_bundle_of_this_build_is_refused_with_a_reason() {
        let refused = |name: &str, bytes: &[u8]| in_file(name, bytes, |path| Bundle::open(path).unwrap_err());
        let empty = refused("empty", &[]);
        assert!(matches!(empty, BundleError::Read { .. } | BundleError::Missing { .. }), "{empty}");
        let text = refused("text", b"no archive at all");
        assert!(matches!(text, BundleError::Read { .. }), "{text}");
        let other = refused("other", &bundle(LAYOUT_VERSION + 1));
        assert!(matches!(other, BundleError::Version { .. }), "{other}");
    }
}
