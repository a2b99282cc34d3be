//! A file of tokens for a server, readable by nobody else, removed in the end.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct TokensFile(PathBuf);

impl TokensFile {
    pub fn new(text: &str) -> TokensFile {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("crabcache-tokens-{}-{number}.toml", std::process::id());
        let file = TokensFile(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    pub fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("a file");
        self.permit(0o600);
    }

    /// Who may read or write it, as `chmod` says it.
    pub fn permit(&self, mode: u32) {
        std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(mode)).expect("permissions");
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for TokensFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
