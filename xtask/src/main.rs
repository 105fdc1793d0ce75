//! x
fn main() {
    let jars = ottla_testkit::Jars::get().expect("jdk");
    let kafka = ottla_testkit::Kafka::start(&jars, "");
    kafka.create_topic("orders", 3, &[]);
    println!("{}", kafka.bootstrap);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    for r in kafka.read("orders") {
        println!("{r:?}");
    }
}
