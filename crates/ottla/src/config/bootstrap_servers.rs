//! The argument of `ProducerBuilder::bootstrap_servers`: a comma list or anything iterable.

/// Brokers as text `host:port`: one text with commas between them, or anything iterable of such
/// texts.
///
/// It is implemented for `&str`, `String` and `&String`, and for each [`IntoIterator`] whose items
/// are [`AsRef<str>`]. The trait is sealed; `Form` only separates the two cases.
pub trait BootstrapServers<Form>: sealed::JoinServers<Form> {}

impl<T: sealed::JoinServers<Form>, Form> BootstrapServers<Form> for T {}

mod sealed {
    /// One text.
    #[derive(Debug)]
    pub enum CommaList {}
    /// Several texts.
    #[derive(Debug)]
    pub enum Items {}

    pub trait JoinServers<Form> {
        /// Returns all servers, separated by commas.
        fn join(self) -> String;
    }

    impl JoinServers<CommaList> for &str {
        fn join(self) -> String {
            self.to_owned()
        }
    }

    impl JoinServers<CommaList> for String {
        fn join(self) -> String {
            self
        }
    }

    impl JoinServers<CommaList> for &String {
        fn join(self) -> String {
            self.clone()
        }
    }

    impl<I: IntoIterator<Item: AsRef<str>>> JoinServers<Items> for I {
        fn join(self) -> String {
            let mut list = String::new();
            for item in self {
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(item.as_ref());
            }
            list
        }
    }
}
