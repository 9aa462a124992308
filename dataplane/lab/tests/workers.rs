//! Section 7 of the demo: two workers, equal and different owners, two queues and one.

use lab::sections::workers;
use lab::transcript::Transcript;

#[test]
fn every_path_with_equal_and_with_different_owners() {
    workers::play(&Transcript::default()).assert_passed();
}
