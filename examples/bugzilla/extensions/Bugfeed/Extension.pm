# All of it is in the template hook and in web/bugfeed.js.
package Bugzilla::Extension::Bugfeed;

use 5.10.1;
use strict;
use warnings;

use parent qw(Bugzilla::Extension);

our $VERSION = '1.0';

__PACKAGE__->NAME;
