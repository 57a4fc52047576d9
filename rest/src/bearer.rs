//! Whose request it is, where a key says it.

use axum::http::{HeaderMap, header};

/// The key of `Authorization: Bearer <key>` (RFC 6750, the scheme in any case); none where
/// there is none or another scheme.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_behind_its_scheme_and_nothing_else() {
        for (given, key) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            assert_eq!(bearer(&headers), None);
            headers.insert(header::AUTHORIZATION, given.parse().expect("ASCII"));
            assert_eq!(bearer(&headers), key, "{given:?}");
        }
    }
}
