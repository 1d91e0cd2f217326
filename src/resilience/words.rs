//! Enums whose variants each have one word, used in the policy, in metrics and in logs.

macro_rules! words {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every variant, in order.
            pub const ALL: [$name; [$($word),*].len()] = [$($name::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The variant with this word.
            #[allow(dead_code)]
            pub fn from_word(word: &str) -> Option<$name> {
                $name::ALL.into_iter().find(|variant| variant.as_str() == word)
            }
        }
    )*};
}

pub(crate) use words;
