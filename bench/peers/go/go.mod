module passing

go 1.22
