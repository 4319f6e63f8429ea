#![forbid(unsafe_code)]
//! What the files bring with them and no model is about.

pub(crate) mod census {
    /// Who has a slot.
    pub(crate) struct Card;

    #[derive(Default)]
    pub(crate) struct Facts;

    impl Facts {
        pub(crate) fn reset(&self) {}
        pub(crate) fn cut(&self) {}
    }

    #[derive(Default)]
    pub(crate) struct Book(Facts);

    impl Book {
        pub(crate) fn number(_: u32) -> usize {
            0
        }

        pub(crate) fn facts(&self, _: u32) -> &Facts {
            &self.0
        }
    }
}
