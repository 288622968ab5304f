raise SystemExit('this file must not run')
