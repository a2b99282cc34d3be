//! The kernel's version.

use std::fmt;

use super::super::refusal::Refusal;

/// Single-issuer rings with deferred task work, and multishot receive into provided buffers.
const OLDEST: (u32, u32) = (6, 1);

/// A kernel new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    release: String,
}

impl Kernel {
    pub fn check() -> Result<Kernel, Refusal> {
        let release = nix::sys::utsname::uname()
            .map(|names| names.release().to_string_lossy().into_owned())
            .map_err(|error| Refusal::System(format!("the kernel's version cannot be read: {error}")))?;
        Kernel::from_release(release)
    }

    fn from_release(release: String) -> Result<Kernel, Refusal> {
        match parse(&release) {
            Some(version) if version >= OLDEST => Ok(Kernel { release }),
            Some(_) => Err(Refusal::System(format!(
                "Linux {release} is too old: {}.{} or newer is needed for its io_uring; upgrade the kernel",
                OLDEST.0, OLDEST.1
            ))),
            None => Err(Refusal::System(format!(
                "{release:?} is no Linux version: {}.{} or newer is needed",
                OLDEST.0, OLDEST.1
            ))),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Linux {}", self.release)
    }
}

/// Major and minor number of `6.18.44-generic`, `6.1-rc3`, `7.0`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for release in ["6.1.0", "6.1", "6.1-rc3", "6.18.44-generic", "6.10.1", "7.0.0", "10.2+"] {
            assert!(Kernel::from_release(release.into()).is_ok(), "{release}");
        }
        for release in ["6.0.19", "5.15.0-91-generic", "2.6.78", "4.19"] {
            let refusal = Kernel::from_release(release.into()).expect_err(release);
            assert_eq!(refusal.exit_code(), 77);
            assert!(refusal.to_string().contains("too old"), "{refusal}");
        }
        for release in ["", "next", "6", "-6.1"] {
            assert!(Kernel::from_release(release.into()).is_err(), "{release}");
        }
    }
}
