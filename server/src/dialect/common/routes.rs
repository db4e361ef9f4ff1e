//! The calls of a platform as a table: one row for each method and path. Whoever dispatches reads it, and so does whoever has to know every
//! call there is: the description, and the tests that go through all of them.

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Route<C> {
    pub method: &'static str,
    /// What stands between its slashes is taken letter by letter; what stands in braces takes any name.
    pub path: &'static str,
    pub call: C,
}

/// One row of a table.
pub const fn route<C>(method: &'static str, path: &'static str, call: C) -> Route<C> {
    Route { method, path, call }
}

/// The most names that a path has.
pub const NAMES_MAX: usize = 2;

/// What stands where a path has braces, in their order; empty beyond that.
pub type Names<'a> = [&'a str; NAMES_MAX];

/// The call of this method and path, with the names in the path.
pub fn find<'a, C: Copy>(routes: &[Route<C>], method: &str, path: &[&'a str]) -> Option<(C, Names<'a>)> {
    routes.iter().filter(|route| route.method == method).find_map(|route| Some((route.call, names(route.path, path)?)))
}

/// Whatever has this path, by whichever method.
pub fn at<'a, C>(routes: &'a [Route<C>], path: &[&str]) -> impl Iterator<Item = &'a Route<C>> {
    routes.iter().filter(move |route| names(route.path, path).is_some())
}

fn names<'a>(wanted: &str, path: &[&'a str]) -> Option<Names<'a>> {
    let (mut names, mut found) = ([""; NAMES_MAX], 0);
    let mut path = path.iter();
    for wanted in wanted.split('/').skip(1) {
        let part = *path.next()?;
        if wanted.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            *names.get_mut(found)? = part;
            found += 1;
        } else if wanted != part {
            return None;
        }
    }
    if path.next().is_none() { Some(names) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &[Route<u8>] =
        &[route("GET", "/a", 1), route("GET", "/a/special", 2), route("GET", "/a/{id}", 3), route("POST", "/a/{id}/b/{other}", 4)];

    #[test]
    fn the_first_row_that_fits_answers_with_the_names_in_its_path() {
        for (method, path, expected) in [
            ("GET", &["a"][..], Some((1, ["", ""]))),
            ("GET", &["a", "special"], Some((2, ["", ""]))),
            ("GET", &["a", "x"], Some((3, ["x", ""]))),
            ("POST", &["a", "x", "b", "y"], Some((4, ["x", "y"]))),
            ("POST", &["a", "x"], None),
            ("GET", &[], None),
            ("GET", &["b"], None),
            ("GET", &["a", "x", "y"], None),
            ("POST", &["a", "x", "b"], None),
            ("GET", &["a", ""], None),
            ("POST", &["a", "", "b", "y"], None),
        ] {
            assert_eq!(find(ROUTES, method, path), expected, "{method} {path:?}");
        }
    }

    #[test]
    fn what_has_a_path_is_found_whatever_its_method() {
        assert_eq!(at(ROUTES, &["a", "x", "b", "y"]).map(|route| route.method).collect::<Vec<_>>(), ["POST"]);
        assert_eq!(at(ROUTES, &["a", "special"]).count(), 2);
        assert_eq!(at(ROUTES, &["b"]).count(), 0);
    }
}
