//! The file of tokens: who may come in, with which secrets, and what for.
//!
//! ```toml
//! [[token]]
//! name = "shop"
//! sha256 = ["9f86d081884c7d65…"]   # digests of secrets; or secret = "…" in plain text
//! scopes = ["read", "write"]       # read, write, pubsub, admin, dangerous, all
//! keys = ["shop:*"]                # patterns; none is every key
//! commands-per-second = 1000       # of all its connections together; 0 is no limit
//! commands-burst = 2000
//! bytes-per-second = "10mb"
//! bytes-burst = "20mb"
//! ```

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::file::FILE_BYTES_MAX;
use super::origin::{ConfigError, Origin};
use super::value::SECRET_BYTES_MIN;
use crate::auth::{Digest, Scopes, Token};
use crate::number::parse_size;

/// The tokens of the file at `path`, which nobody else may read.
pub fn read(path: &Path) -> Result<Vec<Token>, ConfigError> {
    let path: Arc<Path> = Arc::from(path);
    let failed = |text: String| ConfigError {
        origin: Origin::File { path: path.clone(), line: 1, column: 1 },
        key: Some("tokens-file"),
        text,
    };
    let metadata = std::fs::metadata(&path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    if metadata.mode() & 0o007 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(failed(format!("everybody may read or write it (mode {mode:o}): chmod o= {}", path.display())));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(failed(format!("{} bytes are too many (at most {FILE_BYTES_MAX})", metadata.len())));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    parse(&path, &text)
}

fn parse(path: &Arc<Path>, text: &str) -> Result<Vec<Token>, ConfigError> {
    let fail = |at: usize, why: String| ConfigError {
        origin: Origin::file(path, text, at),
        key: Some("tokens-file"),
        text: why,
    };
    // What the parser says may hold a line of the file, and with it a secret: its place has to do.
    let table = DeTable::parse(text)
        .map_err(|error| fail(error.span().map_or(0, |span| span.start), "this is not TOML".into()))?;
    let mut tokens = Vec::new();
    for (key, value) in table.get_ref().iter() {
        if key.get_ref() != "token" {
            return Err(fail(key.span().start, format!("{}: only [[token]] is known here", key.get_ref())));
        }
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(fail(key.span().start, "token: written [[token]]".into()));
        };
        for entry in entries.iter() {
            let DeValue::Table(table) = entry.get_ref() else {
                return Err(fail(entry.span().start, "token: written [[token]]".into()));
            };
            tokens.push(token(table, entry.span().start, &fail)?);
        }
    }
    Ok(tokens)
}

fn token(table: &DeTable<'_>, at: usize, fail: &impl Fn(usize, String) -> ConfigError) -> Result<Token, ConfigError> {
    let mut token = Token { scopes: Scopes::default(), ..Token::unlimited("", None) };
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let place = value.span().start;
        let texts =
            || texts(value.get_ref()).ok_or_else(|| fail(place, format!("{name}: expected a text or a list of texts")));
        let number = || {
            let text = match value.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_string(),
                DeValue::String(text) => text.to_string(),
                _ => return Err(fail(place, format!("{name}: expected a number"))),
            };
            parse_size(&text).map_err(|why| fail(place, format!("{name}: {why}")))
        };
        match name {
            "name" => {
                token.name = texts()?.join("");
                if token.name.is_empty() || !token.name.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(fail(place, "name: letters, digits and signs, no spaces".into()));
                }
            }
            "sha256" => {
                for text in texts()? {
                    let digest = Digest::parse(&text);
                    token.digests.push(digest.ok_or_else(|| fail(place, "sha256: 64 hexadecimal digits".into()))?);
                }
            }
            "secret" => {
                for text in texts()? {
                    if text.len() < SECRET_BYTES_MIN {
                        return Err(fail(place, format!("secret: at least {SECRET_BYTES_MIN} bytes")));
                    }
                    token.digests.push(Digest::of(text.as_bytes()));
                }
            }
            "scopes" => {
                for text in texts()? {
                    let scope = Scopes::parse(&text).ok_or_else(|| {
                        fail(place, format!("scopes: {text:?} is none of read, write, pubsub, admin, dangerous, all"))
                    })?;
                    token.scopes = token.scopes.with(scope);
                }
            }
            "keys" => token.keys = texts()?.into_iter().map(String::into_bytes).collect(),
            "commands-per-second" => token.commands.per_second = number()?,
            "commands-burst" => token.commands.burst = number()?,
            "bytes-per-second" => token.bytes.per_second = number()?,
            "bytes-burst" => token.bytes.burst = number()?,
            _ => return Err(fail(key.span().start, format!("{name}: a token has no such key"))),
        }
    }
    if token.name.is_empty() {
        return Err(fail(at, "a token needs a name".into()));
    }
    if token.digests.is_empty() {
        return Err(fail(at, format!("the token {} needs a sha256 or a secret", token.name)));
    }
    for rate in [&mut token.commands, &mut token.bytes] {
        if rate.burst == 0 {
            rate.burst = rate.per_second;
        }
    }
    Ok(token)
}

fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        DeValue::Array(values) => values
            .iter()
            .map(|value| match value.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<Token>, String> {
        parse(&Arc::from(Path::new("t.toml")), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_has_what_stands_in_the_file() {
        let digest = Digest::of(b"first secret");
        let text = format!(
            "[[token]]\nname = \"shop\"\nsha256 = \"{}\"\nsecret = \"second secret\"\nscopes = [\"read\", \"@write\"]\n\
             keys = [\"shop:*\"]\ncommands-per-second = 100\nbytes-per-second = \"1mb\"\nbytes-burst = \"2mb\"\n\
             [[token]]\nname = \"ops\"\nsecret = \"third secret\"\nscopes = \"all\"\n",
            digest.hex()
        );
        let tokens = parsed(&text).unwrap();
        assert_eq!(tokens.len(), 2);
        let shop = &tokens[0];
        // Keys come in the order of their names.
        assert_eq!(shop.digests, [Digest::of(b"second secret"), digest]);
        assert_eq!((shop.commands.per_second, shop.commands.burst), (100, 100));
        assert_eq!((shop.bytes.per_second, shop.bytes.burst), (1 << 20, 2 << 20));
        assert!(
            shop.scopes == Scopes::READ.with(Scopes::WRITE) && shop.allows_key(b"shop:1") && !shop.allows_key(b"x")
        );
        assert!(tokens[1].scopes == Scopes::ALL && tokens[1].keys.is_empty());
        assert_eq!(parsed(""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_without_the_secret() {
        for (text, words) in [
            ("[[token]]\nsecret = \"abcdefgh\"", "t.toml:1:1: a token needs a name"),
            ("[[token]]\nname = \"a\"", "needs a sha256 or a secret"),
            ("[[token]]\nname = \"a\"\nsecret = \"short\"", "t.toml:3:10: secret: at least 8 bytes"),
            ("[[token]]\nname = \"a\"\nsha256 = \"12\"", "sha256: 64 hexadecimal digits"),
            ("[[token]]\nname = \"a b\"", "name:"),
            ("[[token]]\nname = \"a\"\nscopes = [\"root\"]", "\"root\" is none of"),
            ("[[token]]\nnames = \"a\"", "t.toml:2:1: names: a token has no such key"),
            ("[token]\nname = \"a\"", "written [[token]]"),
            ("port = 1", "only [[token]]"),
            ("[[token]]\nsecret = \"hidden secret", "this is not TOML"),
        ] {
            let refused = parsed(text).expect_err(text);
            assert!(refused.contains(words) && !refused.contains("hidden"), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("crabcache-tokens-{}.toml", std::process::id()));
        std::fs::write(&path, "[[token]]\nname = \"a\"\nsecret = \"some secret\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read(&path).unwrap_err();
        assert!(refused.to_string().contains("everybody may read or write it (mode 644)"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().exit_code(), 78);
    }
}
