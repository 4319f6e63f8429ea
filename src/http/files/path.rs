#![forbid(unsafe_code)]
//! From the path of a target to a path below the root.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::http::head::Bad;

/// What stays as it is in a path (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path below the root: no `..`, no empty segment, no NUL, no slash at either end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relative {
    pub(super) bytes: Vec<u8>,
    /// The target ended with a slash: a directory is meant.
    pub(super) directory: bool,
}

/// Decodes and resolves a path.
///
/// Names that begin with a dot are not there for anybody (`.git`, `.htpasswd`), but for `.well-known`
/// (RFC 8615).
pub(super) fn relative(path: &str) -> Result<Relative, Bad> {
    let missing = Bad::of(404, "There is no such page.");
    let mut bytes: Vec<u8> = Vec::with_capacity(path.len() + 16);
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "" | ".");
        let decoded: Cow<'_, [u8]> = percent_decode_str(segment).into();
        if decoded.contains(&0) {
            return Err(Bad::request("The path has a NUL in it."));
        }
        match &*decoded {
            b"" | b"." => directory = true,
            b".." => {
                if bytes.is_empty() {
                    return Err(Bad::request("The path leads out of the root."));
                }
                let end = memchr::memrchr(b'/', &bytes).unwrap_or(0);
                bytes.truncate(end);
                directory = true;
            }
            name if name.contains(&b'/') => return Err(missing),
            name if name[0] == b'.' && name != b".well-known" => return Err(missing),
            name => {
                if !bytes.is_empty() {
                    bytes.push(b'/');
                }
                bytes.extend_from_slice(name);
            }
        }
    }
    Ok(Relative { bytes, directory })
}

/// The path of a target for a path below the root.
pub(super) fn encode(relative: &[u8]) -> String {
    let mut path = String::from("/");
    for (index, segment) in relative.split(|byte| *byte == b'/').enumerate() {
        if index > 0 {
            path.push('/');
        }
        path.extend(percent_encode(segment, ENCODED));
    }
    path
}

/// One name as a reference relative to its directory.
pub(super) fn encode_name(name: &[u8]) -> String {
    percent_encode(name, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::{encode, relative};

    #[test]
    fn paths_stay_below_the_root() {
        for (path, wanted) in [
            ("/", Ok(("", true))),
            ("//", Ok(("", true))),
            ("/a//b/./c", Ok(("a/b/c", false))),
            ("/a/b/", Ok(("a/b", true))),
            ("/a/b/..", Ok(("a", true))),
            ("/a/%2e%2E/b", Ok(("b", false))),
            ("/a%20b%3f", Ok(("a b?", false))),
            ("/%", Ok(("%", false))),
            ("/%zz", Ok(("%zz", false))),
            ("/%252e%252e/x", Ok(("%2e%2e/x", false))),
            ("/.well-known/x", Ok((".well-known/x", false))),
            ("/..", Err(400)),
            ("/a/../../b", Err(400)),
            ("/a%00b", Err(400)),
            ("/a%2fb", Err(404)),
            ("/..%2f..%2fetc", Err(404)),
            ("/.git/config", Err(404)),
        ] {
            let found = relative(path)
                .map(|found| (String::from_utf8(found.bytes).unwrap(), found.directory))
                .map_err(|bad| bad.status);
            assert_eq!(
                found,
                wanted.map(|(bytes, directory)| (bytes.to_owned(), directory)),
                "{path}"
            );
        }
    }

    #[test]
    fn an_encoded_path_has_one_slash_ahead() {
        assert_eq!(encode(b"a b/\"c\""), "/a%20b/%22c%22");
        assert_eq!(
            encode(&relative("//evil.example/x").unwrap().bytes),
            "/evil.example/x"
        );
    }
}
