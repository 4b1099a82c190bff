package build

func landlockForTest() (int, error) { return landlockABI() }
