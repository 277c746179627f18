//! What a browser downloaded. Whoever took the browser over might have put links where
//! its files are to be: none is followed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use browserfleet_proto::limits::MEDIA_CHUNK_BYTES_MAX;
use bytes::Bytes;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use serde_json::json;
use tokio::sync::mpsc;

/// How Chrome calls what it has not finished.
const UNFINISHED: &str = ".crdownload";
/// How many are listed.
const LISTED_MAX: usize = 1000;
/// Parts that were read and wait for the stream.
const PARTS_MAX: usize = 2;

/// A file in parts, as it is read.
pub type Parts = mpsc::Receiver<io::Result<Bytes>>;

/// The folder of one browser's downloads.
#[derive(Debug, Clone)]
pub struct Downloads {
    folder: PathBuf,
}

impl Downloads {
    /// Those in this folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn open_folder(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(open(&self.folder, flags, Mode::empty())?)
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        if name.contains(['/', '\0']) || name == ".." {
            return Err(io::ErrorKind::NotFound.into());
        }
        // To open what is no file at all, as a pipe, is not to wait.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let folder = self.open_folder()?;
        let file = File::from(openat(&folder, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Which there are, as the wire has them. None, where nothing was downloaded.
    fn list(&self) -> io::Result<Vec<u8>> {
        let mut listed = Vec::new();
        let folder = match self.open_folder() {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(b"[]".to_vec()),
            Err(error) => return Err(error),
        };
        for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            let Some(name) = name.ok().filter(|it| !it.ends_with(UNFINISHED)) else {
                continue;
            };
            // It may have been removed since.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            if about.is_file() {
                listed.push(json!({ "name": name, "size_bytes": about.len() }));
            }
            if listed.len() == LISTED_MAX {
                break;
            }
        }
        Ok(serde_json::to_vec(&listed)?)
    }

    /// The file of this name, or the list of all. It is read as it is taken.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn read(self, name: Option<String>) -> io::Result<Parts> {
        let opened = tokio::task::spawn_blocking(move || -> io::Result<Box<dyn Read + Send>> {
            Ok(match name {
                Some(name) => Box::new(self.open_file(&name)?),
                None => Box::new(io::Cursor::new(self.list()?)),
            })
        });
        let from = opened.await.map_err(io::Error::other)??;
        let (parts, taken) = mpsc::channel(PARTS_MAX);
        // Ends with the file, or once nobody takes it.
        tokio::task::spawn_blocking(move || hand_on(from, &parts));
        Ok(taken)
    }
}

fn hand_on(mut from: Box<dyn Read + Send>, parts: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut part = Vec::new();
        let read = from
            .by_ref()
            .take(MEDIA_CHUNK_BYTES_MAX as u64)
            .read_to_end(&mut part);
        let part = match read {
            Ok(0) => return,
            Ok(_) => Ok(Bytes::from(part)),
            Err(error) => Err(error),
        };
        let failed = part.is_err();
        if parts.blocking_send(part).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    async fn read(downloads: &Downloads, name: Option<&str>) -> io::Result<Vec<u8>> {
        let mut parts = downloads.clone().read(name.map(str::to_owned)).await?;
        let mut whole = Vec::new();
        while let Some(part) = parts.recv().await {
            whole.extend_from_slice(&part?);
        }
        Ok(whole)
    }

    #[tokio::test]
    async fn files_are_read_and_links_are_not() {
        let own = tempfile::tempdir().expect("a folder");
        let secret = own.path().join("secret");
        fs::write(&secret, "s").expect("written");
        let folder = own.path().join("downloads");
        let downloads = Downloads::new(folder.clone());
        assert_eq!(read(&downloads, None).await.expect("a list"), b"[]");
        fs::create_dir(&folder).expect("made");
        let large = vec![7; 2 * MEDIA_CHUNK_BYTES_MAX + 5];
        fs::write(folder.join("a"), &large).expect("written");
        fs::write(folder.join("b.crdownload"), "half").expect("written");
        symlink(&secret, folder.join("link")).expect("linked");
        assert!(read(&downloads, Some("a")).await.expect("a file") == large);
        let expected = format!(r#"[{{"name":"a","size_bytes":{}}}]"#, large.len());
        let listed = read(&downloads, None).await.expect("a list");
        assert_eq!(listed, expected.as_bytes());
        for name in ["link", "../secret", "..", ".", "", "none", "/etc/passwd"] {
            assert!(read(&downloads, Some(name)).await.is_err(), "{name}");
        }
        let linked = own.path().join("linked");
        symlink(&folder, &linked).expect("linked");
        assert!(read(&Downloads::new(linked), Some("a")).await.is_err());
    }
}
