//! Names in several languages: a default, and others by locale. A plain text is a default alone.
//!
//! The default is the name that the engine knows; the others are kept as annotations beside it, one each, so that another dialect can
//! change the name without touching them.

use super::status::Failure;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What the platform has room for.
pub(super) const LOCALES: [&str; 4] = ["zh_CN", "en_US", "ja_JP", "es_ES"];

/// `{"defaultValue":"…","i18nValue":{"zh_CN":"…"}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LocalizedText {
    pub(super) default: String,
    /// By locale, each at most once, in the order of [`LOCALES`].
    pub(super) localized: Vec<(&'static str, String)>,
}

pub(super) type Annotations = BTreeMap<Box<str>, Box<str>>;

impl LocalizedText {
    /// Refuses an empty default, and texts longer than `chars_max`.
    pub(super) fn check(&self, field: &str, chars_max: usize) -> Result<(), Failure> {
        if self.default.trim().is_empty() {
            return Err(Failure::invalid(format!(
                "{field}.defaultValue is missing or empty; give the name that all languages share"
            )));
        }
        for text in [&self.default].into_iter().chain(self.localized.iter().map(|(_, text)| text)) {
            let chars = text.chars().count();
            if chars > chars_max {
                return Err(Failure::invalid(format!("{field} may have {chars_max} characters at most, got {chars}; shorten it")));
            }
        }
        Ok(())
    }

    /// Keeps what isn't the default. `key` is the annotation that they begin with.
    pub(super) fn annotate(&self, key: &str, annotations: &mut Annotations) {
        for (locale, text) in &self.localized {
            annotations.insert(format!("{key}.{locale}").into(), text.as_str().into());
        }
    }

    /// The text that was kept.
    pub(super) fn kept(default: &str, key: &str, annotations: &Annotations) -> Self {
        let kept = |locale: &&'static str| {
            let text = annotations.get(format!("{key}.{locale}").as_str())?;
            Some((*locale, text.to_string()))
        };
        Self { default: default.to_owned(), localized: LOCALES.iter().filter_map(kept).collect() }
    }

    /// Every text of it: what a search by name looks through.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        [self.default.as_str()].into_iter().chain(self.localized.iter().map(|(_, text)| text.as_str()))
    }

    pub(super) fn in_locale(&self, locale: &str) -> Option<&str> {
        self.localized.iter().find(|(own, _)| *own == locale).map(|(_, text)| text.as_str())
    }
}

impl<'de> Deserialize<'de> for LocalizedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = LocalizedText;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, or an object with defaultValue and i18nValue")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(LocalizedText { default: text.to_owned(), localized: Vec::new() })
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut read = LocalizedText::default();
        let mut by_locale: BTreeMap<String, Option<String>> = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "defaultValue" => read.default = map.next_value::<Option<String>>()?.unwrap_or_default(),
                "i18nValue" => by_locale = map.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => drop(map.next_value::<de::IgnoredAny>()?),
            }
        }
        // A locale that the platform doesn't have is left out, as there.
        let mut take = |locale: &&'static str| Some((*locale, by_locale.remove(*locale)??)).filter(|(_, text)| !text.is_empty());
        read.localized = LOCALES.iter().filter_map(&mut take).collect();
        Ok(read)
    }
}

impl Serialize for LocalizedText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct ByLocale<'a>(&'a [(&'static str, String)]);

        impl Serialize for ByLocale<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (locale, text) in self.0 {
                    map.serialize_entry(locale, text)?;
                }
                map.end()
            }
        }

        let mut shown = serializer.serialize_struct("StringI18n", 2)?;
        shown.serialize_field("defaultValue", &self.default)?;
        shown.serialize_field("i18nValue", &ByLocale(&self.localized))?;
        shown.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> LocalizedText {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_are_read_as_text_and_as_struct_and_written_as_struct() {
        for (text, shown) in [
            (r#""pump""#, r#"{"defaultValue":"pump","i18nValue":{}}"#),
            (r#"{"defaultValue":"pump","i18nValue":{}}"#, r#"{"defaultValue":"pump","i18nValue":{}}"#),
            (r#"{"defaultValue":"pump","i18nValue":null,"x":[1]}"#, r#"{"defaultValue":"pump","i18nValue":{}}"#),
            (
                r#"{"i18nValue":{"es_ES":"bomba","xx_XX":"?","zh_CN":"泵","ja_JP":null,"en_US":""},"defaultValue":"pump"}"#,
                r#"{"defaultValue":"pump","i18nValue":{"zh_CN":"泵","es_ES":"bomba"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&read(text)).unwrap(), shown, "{text}");
        }
        for text in ["[]", "true", r#"{"defaultValue":1}"#, r#"{"i18nValue":"x"}"#] {
            assert!(serde_json::from_str::<LocalizedText>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_kept_reads_back() {
        let text = read(r#"{"defaultValue":"pump","i18nValue":{"zh_CN":"泵","es_ES":"bomba"}}"#);
        let mut annotations = Annotations::new();
        text.annotate("enos.name", &mut annotations);
        assert_eq!(LocalizedText::kept("pump", "enos.name", &annotations), text);
        assert_eq!(text.all().collect::<Vec<_>>(), ["pump", "泵", "bomba"]);
        assert_eq!((text.in_locale("zh_CN"), text.in_locale("en_US")), (Some("泵"), None));
    }

    #[test]
    fn an_empty_default_and_a_long_text_are_refused() {
        let refused = |text: &str| read(text).check("name", 3).unwrap_err().message;
        assert!(refused(r#"{"i18nValue":{"zh_CN":"泵"}}"#).starts_with("name.defaultValue is missing"));
        assert!(refused(r#""pump""#).contains("3 characters at most, got 4"));
        assert!(refused(r#"{"defaultValue":"x","i18nValue":{"es_ES":"bomba"}}"#).contains("got 5"));
        assert!(read(r#""泵泵泵""#).check("name", 3).is_ok());
    }
}
