'use strict'

try {
  module.exports = require('fdpass/usocket')
} catch (error) {
  // Jest's loader knows no require() of an ES module; Node's own does.
  if (!(error instanceof SyntaxError) && error.name !== 'SyntaxError') throw error
  module.exports = process.getBuiltinModule('module').createRequire(__filename)('fdpass/usocket')
}
